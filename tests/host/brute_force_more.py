"""Blocks for `brute_force`: Qwen-Image, Lumina 2, Z-Image, Wan, LTX-Video."""

from __future__ import annotations

from brute_force_blocks import moved, over, told_to

import comfy.ldm.lightricks.model as lightricks
import comfy.ldm.lumina.model as lumina
import comfy.ldm.qwen_image.model as qwen
import comfy.ldm.wan.model as wan

# --- Qwen-Image ----------------------------------------------------------------------------------


def qwen_model(replace, network, times, size) -> None:
    embed = network.time_text_embed.forward

    def time_text_embed(timestep, hidden_states, more=None):
        own = embed(timestep, hidden_states, more)
        return told_to(lambda ts: embed(ts, hidden_states, more), own, times)

    replace(network.time_text_embed, "forward", time_text_embed)
    replace(qwen.QwenImageTransformerBlock, "forward", qwen_block)
    replace(qwen.LastLayer, "forward", qwen_last)


def qwen_block(
    self,
    hidden_states,
    encoder_hidden_states,
    encoder_hidden_states_mask,
    temb,
    image_rotary_emb=None,
    timestep_zero_index=None,
    transformer_options=None,
):
    img, txt = hidden_states, encoder_hidden_states
    image = self.img_mod(temb[:, 1:]).chunk(6, dim=-1)
    text = self.txt_mod(temb[:, :1]).chunk(6, dim=-1)
    of_image, of_text = self.attn(
        moved(self.img_norm1(img), *image[:2]),
        moved(self.txt_norm1(txt), *text[:2]),
        encoder_hidden_states_mask,
        image_rotary_emb=image_rotary_emb,
    )
    img, txt = img + image[2] * of_image, txt + text[2] * of_text
    img = img + image[5] * self.img_mlp(moved(self.img_norm2(img), *image[3:5]))
    txt = txt + text[5] * self.txt_mlp(moved(self.txt_norm2(txt), *text[3:5]))
    return txt, img


def qwen_last(self, x, conditioning_embedding):
    scale, shift = self.linear(self.silu(conditioning_embedding[:, 1:])).chunk(2, dim=-1)
    return moved(self.norm(x), shift, scale)


# --- Lumina 2, Z-Image ---------------------------------------------------------------------------


def lumina_model(replace, network, times, size) -> None:
    embed, after = network.t_embedder.forward, 0
    if network.pad_tokens_multiple is not None:
        after = -times.shape[1] % network.pad_tokens_multiple

    def t_embedder(t, dtype):
        def embedded(ts):
            return embed((1 - ts) * network.time_scale, dtype)

        return told_to(embedded, embed(t, dtype), times)

    plain = lumina.JointTransformerBlock.forward

    def block(
        self,
        x,
        x_mask,
        freqs_cis,
        adaln_input=None,
        timestep_zero_index=None,
        transformer_options=None,
    ):
        if not self.modulation:  # the text's own refiner has no time
            return plain(self, x, x_mask, freqs_cis, transformer_options=transformer_options or {})
        told = over(adaln_input, x.shape[1], after)
        scale_a, gate_a, scale_f, gate_f = self.adaLN_modulation(told).chunk(4, dim=-1)
        out = self.attention(self.attention_norm1(x) * (1 + scale_a), x_mask, freqs_cis)
        x = x + gate_a.tanh() * self.attention_norm2(out)
        out = self.feed_forward(self.ffn_norm1(x) * (1 + scale_f))
        return x + gate_f.tanh() * self.ffn_norm2(out)

    def last(self, x, c, timestep_zero_index=None):
        scale = self.adaLN_modulation(over(c, x.shape[1], after))
        return self.linear(self.norm_final(x) * (1 + scale))

    replace(network.t_embedder, "forward", t_embedder)
    replace(lumina.JointTransformerBlock, "forward", block)
    replace(lumina.FinalLayer, "forward", last)


# --- Wan, LTX-Video: text has no time ------------------------------------------------------------


def wan_model(replace, network, times, size) -> None:
    embed = network.time_embedding.forward

    def time_embedding(wave):
        return embed(wan.sinusoidal_embedding_1d(network.freq_dim, times.flatten()))

    def block(self, x, e, freqs, context, context_img_len=257, transformer_options=None):
        mod = (self.modulation + e).unbind(2)
        x = x + mod[2] * self.self_attn(moved(self.norm1(x), *mod[:2]), freqs)
        x = x + self.cross_attn(self.norm3(x), context, context_img_len=context_img_len)
        return x + mod[5] * self.ffn(moved(self.norm2(x), *mod[3:5]))

    def head(self, x, e):
        shift, scale = (self.modulation + e.unsqueeze(2)).unbind(2)
        return self.head(moved(self.norm(x), shift, scale))

    replace(network.time_embedding, "forward", time_embedding)
    replace(wan.WanAttentionBlock, "forward", block)
    replace(wan.Head, "forward", head)


def ltxv_model(replace, network, times, size) -> None:
    embed = network.adaln_single.forward

    def adaln_single(timestep, added_cond_kwargs=None, batch_size=None, hidden_dtype=None):
        every = (times * network.timestep_scale_multiplier).flatten()
        return embed(every, added_cond_kwargs, batch_size=batch_size, hidden_dtype=hidden_dtype)

    def norm(x):
        return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()

    def block(
        self, x, context=None, attention_mask=None, timestep=None, pe=None,
        transformer_options=None, self_attention_mask=None, prompt_timestep=None,
    ):  # fmt: skip
        assert not self.cross_attention_adaln
        mod = (self.scale_shift_table + timestep.unflatten(-1, (6, -1))).unbind(2)
        x = x + mod[2] * self.attn1(moved(norm(x), *mod[:2]), pe=pe, mask=self_attention_mask)
        x = x + self.attn2(x, context=context, mask=attention_mask)
        return x + mod[5] * self.ff(moved(norm(x), *mod[3:5]))

    def output(x, embedded_timestep, keyframe_idxs, orig_shape=None, **kwargs):
        shift, scale = (network.scale_shift_table + embedded_timestep.unsqueeze(2)).unbind(2)
        x = network.proj_out(moved(network.norm_out(x), shift, scale))
        return x.transpose(1, 2).reshape(orig_shape)

    replace(network.adaln_single, "forward", adaln_single)
    replace(lightricks.BasicTransformerBlock, "forward", block)
    replace(network, "_process_output", output)
