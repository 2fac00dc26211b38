"""The networks of InternVL-14B-224px: InternViT-6B, QLLaMA and the pooling of both, named as in the checkpoint.

QLLaMA is a LLaMA some of whose layers also look at the image: 96 learned queries do, texts do not. Queries see each
other in both directions, a text is read from left to right.

Shape suffixes: B images or texts, L tokens, C hidden size, V width of the image tower, E width of a vector.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_POOL_EPSILON = 1e-5


class _Heads(nn.Module):
    """What attention of all kinds here shares: projections without a bias, and heads."""

    def __init__(self, width: int, heads: int, keys: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(keys or width, width, bias=False)
        self.v_proj = nn.Linear(keys or width, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)

    def cut(self, states_BLC: Tensor) -> Tensor:
        batch, length, width = states_BLC.shape
        return states_BLC.view(batch, length, self.heads, width // self.heads).transpose(1, 2)

    def join(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        seen = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        joined: Tensor = self.o_proj(seen.transpose(1, 2).flatten(2))
        return joined


class _SelfAttention(_Heads):
    def forward(self, states_BLC: Tensor, turns: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        queries, keys = (_turned(self.cut(each(states_BLC)), turns) for each in (self.q_proj, self.k_proj))
        return self.join(queries, keys, self.cut(self.v_proj(states_BLC)), mask)


class _CrossAttention(_Heads):
    def __init__(self, width: int, heads: int, vision: int, epsilon: float) -> None:
        super().__init__(width, heads, vision)
        self.norm1 = nn.RMSNorm(width, eps=epsilon)
        self.norm2 = nn.RMSNorm(vision, eps=epsilon)

    def forward(self, states_BLC: Tensor, image_BLV: Tensor) -> Tensor:
        seen = self.norm2(image_BLV)
        queries = self.cut(self.q_proj(self.norm1(states_BLC)))
        return self.join(queries, self.cut(self.k_proj(seen)), self.cut(self.v_proj(seen)), None)


class _GatedMLP(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(states)) * self.up_proj(states))
        return out


class _QLayer(nn.Module):
    def __init__(self, config: dict[str, Any], vision: int, looks: bool) -> None:
        super().__init__()
        width, heads, epsilon = config["hidden_size"], config["num_attention_heads"], config["rms_norm_eps"]
        self.self_attn = _SelfAttention(width, heads)
        self.cross_attn = _CrossAttention(width, heads, vision, epsilon) if looks else None
        self.mlp = _GatedMLP(width, config["intermediate_size"])
        self.input_layernorm = nn.RMSNorm(width, eps=epsilon)
        self.post_attention_layernorm = nn.RMSNorm(width, eps=epsilon)

    def forward(
        self, states: Tensor, image_BLV: Tensor | None, turns: tuple[Tensor, Tensor], mask: Tensor | None
    ) -> Tensor:
        states = states + self.self_attn(self.input_layernorm(states), turns, mask)
        if self.cross_attn is not None and image_BLV is not None:
            states = states + self.cross_attn(states, image_BLV)
        out: Tensor = states + self.mlp(self.post_attention_layernorm(states))
        return out


class _QModel(nn.Module):
    def __init__(self, config: dict[str, Any], vision: int) -> None:
        super().__init__()
        self._head = config["hidden_size"] // config["num_attention_heads"]
        self.embed_tokens = nn.Embedding(config["vocab_size"], config["hidden_size"])
        often = config["cross_attention_frequency"]
        self.layers = nn.ModuleList(
            _QLayer(config, vision, looks=place % often == 0) for place in range(config["num_hidden_layers"])
        )
        self.norm = nn.RMSNorm(config["hidden_size"], eps=config["rms_norm_eps"])

    def forward(self, states_BLC: Tensor, image_BLV: Tensor | None, mask: Tensor | None) -> Tensor:
        """Return the last layer's states, normed. `mask`: bool, True where a token is seen; None for all."""
        length, device = states_BLC.shape[1], states_BLC.device
        rates = 1.0 / 10_000 ** (torch.arange(0, self._head, 2, device=device).float() / self._head)
        angles = torch.outer(torch.arange(length, device=device).float(), rates).repeat(1, 2)
        turns = angles.cos().to(states_BLC.dtype), angles.sin().to(states_BLC.dtype)
        for layer in self.layers:
            states_BLC = layer(states_BLC, image_BLV, turns, mask)
        normed: Tensor = self.norm(states_BLC)
        return normed


class _QLLaMA(nn.Module):
    def __init__(self, config: dict[str, Any], vision: int) -> None:
        super().__init__()
        self.model = _QModel(config, vision)


class _VisionEmbeddings(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, patch = config["hidden_size"], config["patch_size"]
        self.class_embedding = nn.Parameter(torch.zeros(1, 1, width))
        self.patch_embedding = nn.Conv2d(3, width, patch, patch)
        self.position_embedding = nn.Parameter(torch.zeros(1, 1 + (config["image_size"] // patch) ** 2, width))

    def forward(self, pixels_B3SS: Tensor) -> Tensor:
        patches = self.patch_embedding(pixels_B3SS).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(patches), -1, -1)
        return torch.cat([first, patches], dim=1) + self.position_embedding


class _VisionAttention(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, self._heads = config["hidden_size"], config["num_attention_heads"]
        self.qkv = nn.Linear(width, 3 * width, bias=config.get("qkv_bias", False))
        self.proj = nn.Linear(width, width)
        normed = config.get("qk_normalization", True)
        epsilon = config.get("layer_norm_eps", 1e-6)
        self.q_norm = nn.RMSNorm(width, eps=epsilon) if normed else nn.Identity()
        self.k_norm = nn.RMSNorm(width, eps=epsilon) if normed else nn.Identity()

    def forward(self, states: Tensor) -> Tensor:
        queries, keys, values = self.qkv(states).chunk(3, dim=-1)
        cut = [
            each.unflatten(-1, (self._heads, -1)).transpose(1, 2)
            for each in (self.q_norm(queries), self.k_norm(keys), values)
        ]
        out: Tensor = self.proj(functional.scaled_dot_product_attention(*cut).transpose(1, 2).flatten(2))
        return out


class _VisionMLP(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, states: Tensor) -> Tensor:
        out: Tensor = self.fc2(functional.gelu(self.fc1(states)))
        return out


class _VisionLayer(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, epsilon = config["hidden_size"], config.get("layer_norm_eps", 1e-6)
        self.attn = _VisionAttention(config)
        self.mlp = _VisionMLP(width, config["intermediate_size"])
        self.norm1 = nn.RMSNorm(width, eps=epsilon)
        self.norm2 = nn.RMSNorm(width, eps=epsilon)
        self.ls1 = nn.Parameter(torch.ones(width))
        self.ls2 = nn.Parameter(torch.ones(width))

    def forward(self, states: Tensor) -> Tensor:
        states = states + self.attn(self.norm1(states)) * self.ls1
        out: Tensor = states + self.mlp(self.norm2(states)) * self.ls2
        return out


class _VisionEncoder(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_VisionLayer(config) for _ in range(config["num_hidden_layers"]))


class _VisionModel(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.embeddings = _VisionEmbeddings(config)
        self.encoder = _VisionEncoder(config)

    def forward(self, pixels_B3SS: Tensor) -> Tensor:
        states: Tensor = self.embeddings(pixels_B3SS)
        for layer in self.encoder.layers:
            states = layer(states)
        return states


class _PoolAttention(nn.Module):
    def __init__(self, width: int, heads: int, out: int) -> None:
        super().__init__()
        self._heads = heads
        self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.q_bias, self.k_bias, self.v_bias = (nn.Parameter(torch.zeros(width)) for _ in range(3))
        self.proj = nn.Linear(width, out)

    def forward(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        cut = [
            (layer(each) + bias).unflatten(-1, (self._heads, -1)).transpose(1, 2)
            for layer, bias, each in (
                (self.q, self.q_bias, query),
                (self.k, self.k_bias, keys),
                (self.v, self.v_bias, values),
            )
        ]
        out: Tensor = self.proj(functional.scaled_dot_product_attention(*cut).transpose(1, 2).flatten(2))
        return out


class _AttentionPooling(nn.Module):
    """The mean of all tokens asks, all tokens answer."""

    def __init__(self, width: int, heads: int, out: int) -> None:
        super().__init__()
        self.norm1_q, self.norm1_k, self.norm1_v = (nn.LayerNorm(width, eps=_POOL_EPSILON) for _ in range(3))
        self.cross_attn = _PoolAttention(width, heads, out)

    def forward(self, states_BLC: Tensor) -> Tensor:
        asked = self.norm1_q(states_BLC.mean(1, keepdim=True))
        pooled: Tensor = self.cross_attn(asked, self.norm1_k(states_BLC), self.norm1_v(states_BLC))
        return pooled[:, 0]


class InternVLTowers(nn.Module):
    """Vectors of images and texts, not yet of length one.

    Args:
        config: of the checkpoint, its config.json.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        text, vision = config["qllama_config"], config["vision_config"]
        width, heads = config["clip_embed_dim"], config["attn_pool_num_heads"]
        self.vision_model = _VisionModel(vision)
        self.qllama = _QLLaMA(text, vision["hidden_size"])
        self.query_tokens = nn.Parameter(torch.zeros(1, config["num_query_token"], text["hidden_size"]))
        self.text_projection = nn.Parameter(torch.zeros(text["hidden_size"], width))
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self.clip_projector = _AttentionPooling(vision["hidden_size"], heads, width)
        self.clip_projector2 = _AttentionPooling(text["hidden_size"], heads, width)

    def images(self, pixels_B3SS: Tensor, *, by_queries: bool) -> Tensor:
        """Return the vectors (B, E): of InternVL-C, or of InternVL-G, to which what the queries saw is added."""
        states = self.vision_model(pixels_B3SS)
        contrastive = self.clip_projector(states)
        if not by_queries:
            vectors: Tensor = contrastive
            return vectors
        seen = self.qllama.model(self.query_tokens.expand(len(states), -1, -1), states, None)
        generative = self.clip_projector2(seen)
        return functional.normalize(contrastive, dim=-1) + functional.normalize(generative, dim=-1)

    def texts(self, ids_BL: Tensor) -> Tensor:
        """Return the vectors (B, E) of texts: the state of the last token that is not 0."""
        there_BL = ids_BL > 0
        length = ids_BL.shape[1]
        earlier = torch.ones(length, length, dtype=torch.bool, device=ids_BL.device).tril()
        states = self.qllama.model(self.qllama.model.embed_tokens(ids_BL), None, earlier & there_BL[:, None, None])
        last = states[torch.arange(len(states), device=states.device), there_BL.sum(1) - 1]
        vectors: Tensor = last @ self.text_projection
        return vectors


def _turned(cut: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions."""
    first, second = cut.chunk(2, dim=-1)
    return cut * turns[0] + torch.cat([-second, first], dim=-1) * turns[1]
