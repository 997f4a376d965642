"""The names of a UNet's layers in the code of Stability AI (SGM), which sd-scripts uses for SDXL.

diffusers numbers blocks by resolution and the modules within (`down_blocks.1.attentions.0`); SGM numbers all of them in
one row (`input_blocks.4.1`). See the [SGM UNet](https://github.com/Stability-AI/generative-models).
"""

import re
from collections.abc import Collection

# At most four digits, because Python refuses to convert very long ones.
_BLOCK = re.compile(r"(down|up)_blocks\.(\d{1,4})\.(resnets|attentions|downsamplers|upsamplers)\.(\d{1,4})\.(.+)")
_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d{1,4})\.(.+)")
_IN_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def sgm_names(layers: Collection[str]) -> dict[str, str]:
    """Return SGM's names of the layers of a UNet by their diffusers paths; layers that are in no UNet have none.

    Args:
        layers: paths of the layers, those of every down block included: from them follows how many there are a block.
    """
    blocks = {layer: found for layer in layers if (found := _BLOCK.fullmatch(layer))}
    inside = [int(found[4]) for found in blocks.values() if found[1] == "down" and not found[3].startswith("down")]
    if not inside:
        return {}
    # Every down block has `depth` layers and a downsampler, every up block `depth` + 1 layers.
    depth = max(inside) + 1
    attentive = {int(found[2]) for found in blocks.values() if (found[1], found[3]) == ("up", "attentions")}
    names: dict[str, str] = {}
    for layer in layers:
        if layer in _OUTSIDE:
            names[layer] = _OUTSIDE[layer]
        elif found := blocks.get(layer):
            names[layer] = _in_block(found, depth, attentive)
        elif found := _MIDDLE.fullmatch(layer):
            kind, index, rest = found.groups()
            names[layer] = f"middle_block.{2 * int(index) + (kind == 'attentions')}.{_inner(kind, rest)}"
    return names


def _in_block(found: re.Match[str], depth: int, attentive: set[int]) -> str:
    way, block, kind, index, rest = found.groups()
    first = int(block) * (depth + 1)
    if kind == "downsamplers":
        return f"input_blocks.{first + depth + 1}.0.{rest.replace('conv', 'op')}"
    if kind == "upsamplers":
        return f"output_blocks.{first + depth}.{1 + (int(block) in attentive)}.{rest}"
    row, start = ("input_blocks", 1) if way == "down" else ("output_blocks", 0)
    return f"{row}.{start + first + int(index)}.{int(kind == 'attentions')}.{_inner(kind, rest)}"


def _inner(kind: str, rest: str) -> str:
    return _IN_RESNET.get(rest, rest) if kind == "resnets" else rest
