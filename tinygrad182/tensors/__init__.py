"""``Tensor``, and the functions of tensors."""
