"""Vision transformers for small images: patches of 4x4 pixels, the mean of all tokens classified.

Sources: Dosovitskiy et al., "An Image is Worth 16x16 Words" (ICLR 2021, arXiv 2010.11929), section 3.1; sizes m and l
are the bodies of DeiT-Ti and DeiT-S (Touvron et al. 2021, arXiv 2012.12877, table 1). The mean in place of a class
token is after Beyer et al., "Better plain ViT baselines" (2022, arXiv 2205.01580). Built on timm's VisionTransformer,
with its initialisation.
"""
# Shapes: B rows, C channels, H height, W width, K classes.

from torch import nn

SIZES: dict[str, tuple[int, int, int]] = {"xs": (96, 6, 3), "s": (192, 6, 3), "m": (192, 12, 3), "l": (384, 12, 6)}
"""Size → (dimension of a token, blocks, heads)."""


def small_vit(
    *,
    dim: int,
    depth: int,
    heads: int,
    classes: int,
    channels: int = 3,
    image_size: int = 32,
    patch_size: int = 4,
    dropout: float = 0.0,
    drop_path: float = 0.0,
) -> nn.Module:
    """Build a vision transformer.

    Args:
        dim: of a token; a multiple of ``heads``. The layer inside a block has four times as many.
        depth: blocks.
        heads: of attention, in each block.
        classes: K.
        channels: C of the input.
        image_size: H and W of the input, pixels; a multiple of ``patch_size``.
        patch_size: pixels a side.
        dropout: share of activations dropped behind each projection in training.
        drop_path: probability that the last block's branches are left out for an image in training; it grows linearly
            from 0 in the first block.

    Returns:
        takes float32 [B, C, H, W], normalised, and gives logits float32 [B, K].

    Raises:
        ValueError: a size below 1, or that is no multiple of what it must be.
    """
    from timm.models.vision_transformer import VisionTransformer

    for name, value in (("dim", dim), ("heads", heads), ("patch_size", patch_size)):
        if value < 1:
            raise ValueError(f"{name}: got {value}; must be at least 1")
    if image_size % patch_size:
        raise ValueError(f"image_size: got {image_size}; must be a multiple of patch_size, {patch_size}")
    if dim % heads:
        raise ValueError(f"dim: got {dim}; must be a multiple of heads, {heads}")
    network: nn.Module = VisionTransformer(
        img_size=image_size,
        patch_size=patch_size,
        in_chans=channels,
        num_classes=classes,
        global_pool="avg",
        class_token=False,
        embed_dim=dim,
        depth=depth,
        num_heads=heads,
        proj_drop_rate=dropout,
        drop_path_rate=drop_path,
    )
    return network
