"""The zoo's own networks, one file a family; all take float32 [B, C, H, W], normalised, and give logits [B, K]."""
