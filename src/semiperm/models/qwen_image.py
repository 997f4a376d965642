"""Qwen-Image: a language model encodes the prompt inside a chat template; joint attention reads its states."""

import torch
from torch import Tensor

from semiperm.models.flow import SquaredFlow, into_squares, out_of_squares
from semiperm.models.text import TextFeatures, mean_state

# B batch, T tokens, C channels, H height, W width

# the pipeline's largest number of prompt tokens
LONGEST = 512


class QwenImage(SquaredFlow):
    """Qwen-Image (arXiv:2508.02324).

    Of the text features `hidden_BTC` are the language model's states from the prompt's first token to the end of the
    chat template behind it; `mask_BT` and `ids` are those of the prompt alone.
    """

    parts = ("transformer", "text_encoder", "tokenizer", "scheduler")
    pipelines = ("QwenImagePipeline",)
    architecture = "qwen-image"
    # The pipeline drops the part of the chat template before the prompt.
    start = 0

    def _encode(self, prompts: list[str]) -> TextFeatures:
        hidden_BTC, attended_BT = self.pipeline.encode_prompt(prompts, device=self.device, max_sequence_length=LONGEST)
        if attended_BT is None:
            attended_BT = torch.ones(hidden_BTC.shape[:2], dtype=torch.long, device=hidden_BTC.device)
        ids = self._tokens(prompts)
        lengths_B1 = torch.tensor([[len(row)] for row in ids], device=hidden_BTC.device)
        mask_BT = torch.arange(hidden_BTC.shape[1], device=hidden_BTC.device) < lengths_B1
        return TextFeatures(
            hidden_BTC=hidden_BTC,
            pooled_BC=mean_state(hidden_BTC, mask_BT),
            mask_BT=mask_BT,
            ids=ids,
            condition={"encoder_hidden_states_mask": attended_BT},
            start=self.start,
        )

    def _tokens(self, prompts: list[str]) -> tuple[tuple[int, ...], ...]:
        tokenizer, template = self.pipeline.tokenizer, self.pipeline.prompt_template_encode
        before = self.pipeline.prompt_template_encode_start_idx
        after = len(tokenizer(template.partition("{}")[2])["input_ids"])
        whole = tokenizer([template.format(prompt) for prompt in prompts])["input_ids"]
        return tuple(tuple(row[before : len(row) - after][:LONGEST]) for row in whole)

    def predict(self, x_BCHW: Tensor, t: Tensor, features: TextFeatures) -> Tensor:
        count, _, height, width = x_BCHW.shape
        found = self.pipeline.transformer(
            hidden_states=into_squares(x_BCHW),
            timestep=torch.as_tensor(t, device=x_BCHW.device).expand(count).to(x_BCHW) / 1000,
            encoder_hidden_states=features.hidden_BTC.to(x_BCHW),
            img_shapes=[[(1, height // 2, width // 2)]] * count,
            return_dict=False,
            **{name: value.to(x_BCHW.device) for name, value in features.condition.items()},
        )[0]
        return out_of_squares(found, x_BCHW.shape)

    def guided(self, empty_BCHW: Tensor, asked_BCHW: Tensor, scale: float) -> Tensor:
        """Return the guided velocity, each 2x2 square rescaled to its norm without guidance, as in the pipeline."""
        plain = into_squares(super().guided(empty_BCHW, asked_BCHW, scale))
        length = into_squares(asked_BCHW).norm(dim=-1, keepdim=True)
        return out_of_squares(plain * (length / plain.norm(dim=-1, keepdim=True)), asked_BCHW.shape)
