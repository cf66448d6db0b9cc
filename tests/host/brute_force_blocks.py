"""Blocks for `brute_force`, a vector a token: UNet, SD3, Flux, Flux.2, HunyuanVideo, Chroma.

They are written again from ComfyUI's source.
"""

from __future__ import annotations

import torch

import comfy.ldm.chroma.layers as chroma_layers
import comfy.ldm.flux.layers as flux_layers
import comfy.ldm.modules.diffusionmodules.mmdit as mmdit
import comfy.ldm.modules.diffusionmodules.openaimodel as unet
from comfy.ldm.chroma.model import Chroma
from comfy.ldm.flux.math import attention
from comfy.ldm.modules.attention import optimized_attention


def told_to(embed, own: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """(B, 1 + N, C): what the embedder gave for the base, then its answer to every single time."""
    return torch.cat([own.unsqueeze(1), embed(times.flatten()).view(*times.shape, -1)], dim=1)


def with_token_axis(replace, module) -> None:
    """Another condition of the same vector is added to all tokens."""
    original = module.forward
    replace(module, "forward", lambda *args: original(*args).unsqueeze(1))


def over(told: torch.Tensor, tokens: int, after: int = 0) -> torch.Tensor:
    """A vector for each of `tokens`: text, the pixels, and `after` tokens of padding."""
    text, base = tokens - after - (told.shape[1] - 1), told[:, :1]
    return torch.cat([base.expand(-1, text, -1), told[:, 1:], base.expand(-1, after, -1)], dim=1)


def moved(x, shift, scale) -> torch.Tensor:
    return x * (1 + scale) + shift


# --- SD1.x, SD2.x, SDXL --------------------------------------------------------------------------


def unet_model(replace, network, times, size) -> None:
    embed, height, width = network.time_embed.forward, *size

    def time_embed(wave):
        waves = unet.timestep_embedding(times.flatten(), network.model_channels)
        return embed(waves).view(len(times), height, width, -1)

    def block(self, x, emb):
        assert not (self.updown or self.skip_t_emb or self.use_scale_shift_norm)
        h = self.in_layers(x)
        halvings = round(height / h.shape[2])  # a convolution of stride 2 is centred on pixel 2 i
        here = self.emb_layers(emb[:, ::halvings, ::halvings])
        h = h + here.permute(0, 3, 1, 2)
        return self.skip_connection(x) + self.out_layers(h)

    replace(network.time_embed, "forward", time_embed)
    if network.num_classes is not None:
        original = network.label_emb.forward
        replace(network.label_emb, "forward", lambda y: original(y)[:, None, None])
    replace(unet.ResBlock, "_forward", block)


# --- SD3, SD3.5 ----------------------------------------------------------------------------------


def mmdit_model(replace, network, times, size) -> None:
    embed = network.t_embedder.forward

    def t_embedder(t, dtype):
        return told_to(lambda ts: embed(ts, dtype), embed(t, dtype), times)

    replace(network.t_embedder, "forward", t_embedder)
    with_token_axis(replace, network.y_embedder)
    replace(mmdit, "_block_mixing", joint_block)
    replace(mmdit.FinalLayer, "forward", mmdit_last)


def joint_block(context, x, context_block, x_block, c, transformer_options=None):
    text, image = c[:, :1], c[:, 1:]
    mod_t = context_block.adaLN_modulation(text).chunk(2 if context_block.pre_only else 6, dim=-1)
    mod_i = x_block.adaLN_modulation(image).chunk(9 if x_block.x_block_self_attn else 6, dim=-1)
    qkv_t = context_block.attn.pre_attention(moved(context_block.norm1(context), *mod_t[:2]))
    qkv_i = x_block.attn.pre_attention(moved(x_block.norm1(x), *mod_i[:2]))
    q, k, v = (torch.cat(pair, dim=1) for pair in zip(qkv_t, qkv_i, strict=True))
    both = optimized_attention(q, k, v, heads=x_block.attn.num_heads)
    of_text, of_image = both[:, : context.shape[1]], both[:, context.shape[1] :]
    more = 0
    if x_block.x_block_self_attn:
        q, k, v = x_block.attn2.pre_attention(moved(x_block.norm1(x), *mod_i[6:8]))
        own = optimized_attention(q, k, v, heads=x_block.attn2.num_heads)
        more = mod_i[8] * x_block.attn2.post_attention(own)
    x = x + mod_i[2] * x_block.attn.post_attention(of_image) + more
    x = x + mod_i[5] * x_block.mlp(moved(x_block.norm2(x), *mod_i[3:5]))
    if context_block.pre_only:
        return None, x
    context = context + mod_t[2] * context_block.attn.post_attention(of_text)
    hidden = context_block.mlp(moved(context_block.norm2(context), *mod_t[3:5]))
    return context + mod_t[5] * hidden, x


def mmdit_last(self, x, c):
    return self.linear(moved(self.norm_final(x), *self.adaLN_modulation(c[:, 1:]).chunk(2, dim=-1)))


# --- Flux, Flux.2, HunyuanVideo ------------------------------------------------------------------


def flux_model(replace, network, times, size, factor) -> None:
    embed = network.time_in.forward

    def time_in(wave):
        def embedded(ts):
            return embed(flux_layers.timestep_embedding(ts, 256, time_factor=factor))

        return told_to(embedded, embed(wave), times)

    replace(network.time_in, "forward", time_in)
    for other in (network.vector_in, network.guidance_in):
        if other is not None and list(other.parameters()):
            with_token_axis(replace, other)
    flux_blocks(replace)
    replace(flux_layers.LastLayer, "forward", flux_last)


def flux_blocks(replace) -> None:
    replace(flux_layers.DoubleStreamBlock, "forward", double_block)
    replace(flux_layers.SingleStreamBlock, "forward", single_block)


def parts(mod, rows: slice) -> tuple:
    return mod.shift[:, rows], mod.scale[:, rows], mod.gate[:, rows]


def split_heads(attn, heads: int, x):
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in attn.qkv(x).chunk(3, dim=-1))
    return (*attn.norm(q, k, v), v)


def double_block(
    self, img, txt, vec, pe, attn_mask=None, modulation_dims_img=None, modulation_dims_txt=None,
    transformer_options=None,
):  # fmt: skip
    mods = (self.img_mod(vec), self.txt_mod(vec)) if self.modulation else vec
    image = [parts(mod, slice(1, None)) for mod in mods[0]]
    text = [parts(mod, slice(0, 1)) for mod in mods[1]]
    of_image = split_heads(self.img_attn, self.num_heads, moved(self.img_norm1(img), *image[0][:2]))
    of_text = split_heads(self.txt_attn, self.num_heads, moved(self.txt_norm1(txt), *text[0][:2]))
    q, k, v = (torch.cat(pair, dim=2) for pair in zip(of_text, of_image, strict=True))
    out = attention(q, k, v, pe=pe, mask=attn_mask)
    img = img + image[0][2] * self.img_attn.proj(out[:, txt.shape[1] :])
    img = img + image[1][2] * self.img_mlp(moved(self.img_norm2(img), *image[1][:2]))
    txt = txt + text[0][2] * self.txt_attn.proj(out[:, : txt.shape[1]])
    txt = txt + text[1][2] * self.txt_mlp(moved(self.txt_norm2(txt), *text[1][:2]))
    return img, txt


def single_block(self, x, vec, pe, attn_mask=None, modulation_dims=None, transformer_options=None):
    mod = self.modulation(vec)[0] if self.modulation else vec
    shift, scale, gate = (over(t, x.shape[1]) for t in parts(mod, slice(None)))
    hidden = self.linear1(moved(self.pre_norm(x), shift, scale))
    qkv, mlp = hidden.split([3 * self.hidden_size, self.mlp_hidden_dim_first], dim=-1)
    q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in qkv.chunk(3, dim=-1))
    out = attention(*self.norm(q, k, v), v, pe=pe, mask=attn_mask)
    return x + gate * self.linear2(torch.cat([out, self.mlp_act(mlp)], dim=-1))


def flux_last(self, x, vec, modulation_dims=None):
    shift, scale = self.adaLN_modulation(vec[:, 1:]).chunk(2, dim=-1)
    return self.linear(moved(self.norm_final(x), shift, scale))


# --- Chroma --------------------------------------------------------------------------------------


def chroma_model(replace, network, times, size) -> None:
    approximate = network.distilled_guidance_layer.forward

    def every_modulation(vector):
        """(B, 1 + N, 344, C): the approximator runs once for every single time."""

        def told(column):
            wave = flux_layers.timestep_embedding(column, 16)
            wave = wave.unsqueeze(1).expand(-1, vector.shape[1], -1)
            return approximate(torch.cat([wave, vector[:, :, 16:]], dim=-1))

        return torch.stack([approximate(vector), *map(told, times.unbind(1))], dim=1)

    def get_modulations(self, tensor, block_type, *, idx=0):
        single, double = self.params.depth_single_blocks, self.params.depth
        if block_type == "final":
            return tensor[:, :, -2], tensor[:, :, -1]
        start = {
            "single": 3 * idx,
            "double_img": 3 * single + 6 * idx,
            "double_txt": 3 * single + 6 * double + 6 * idx,
        }[block_type]
        first = flux_layers.ModulationOut(*tensor[:, :, start : start + 3].unbind(2))
        if block_type == "single":
            return first
        return first, flux_layers.ModulationOut(*tensor[:, :, start + 3 : start + 6].unbind(2))

    def last(self, x, vec):
        shift, scale = (v[:, 1:] for v in vec)
        return self.linear(moved(self.norm_final(x), shift, scale))

    replace(network.distilled_guidance_layer, "forward", every_modulation)
    replace(Chroma, "get_modulations", get_modulations)
    flux_blocks(replace)
    replace(chroma_layers.LastLayer, "forward", last)
