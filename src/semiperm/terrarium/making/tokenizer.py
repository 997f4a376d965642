"""A CLIP tokenizer whose byte pairs are learnt from the terrarium's captions and common English."""

import json
from pathlib import Path
from pydoc_data.topics import topics

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from semiperm.methods.sentences import everyday

START, END = "<|startoftext|>", "<|endoftext|>"
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def english() -> list[str]:
    """Return common English: everyday concepts, and the topics of Python's documentation."""
    return [*everyday() * 40, *(text for _, text in sorted(topics.items()))]


def train_tokenizer(captions: list[str], vocabulary: int, tokens: int, folder: Path) -> CLIPTokenizer:
    """Train a byte-pair vocabulary of at most `vocabulary` tokens and write it to `folder` in CLIP's layout.

    Args:
        tokens: length that the tokenizer cuts texts to.
    """
    learner = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix="</w>", unk_token=END))
    learner.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    learner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=alphabet,
        special_tokens=[START, END],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator([*captions, *english()], trainer)
    vocab = _with_word_ends(json.loads(learner.to_str())["model"], vocabulary)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab["vocab"], ensure_ascii=False))
    merges = "\n".join(" ".join(pair) for pair in vocab["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    tokenizer = CLIPTokenizer(
        str(folder / "vocab.json"),
        str(folder / "merges.txt"),
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=tokens,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def _with_word_ends(model: dict, vocabulary: int) -> dict:
    """Add every byte as the end of a word, so that any text can be tokenised, and renumber the vocabulary."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    singles = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    merged = ["".join(pair) for pair in model["merges"]]
    names = list(dict.fromkeys([*singles, *merged]))[: vocabulary - 2]
    kept = set(names)
    merges = [pair for pair in model["merges"] if "".join(pair) in kept]
    ids = {name: number for number, name in enumerate([*names, START, END])}
    return {"vocab": ids, "merges": merges}
