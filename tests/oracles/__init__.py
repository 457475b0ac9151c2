"""Reference implementations that tests compare the framework with: slow, short and independent of it.

| module | computes |
|---|---|
| ``derivatives`` | derivatives by the complex step and by differences |
| ``definitions`` | fused operations, as compositions of simpler ones |
| ``dense_engine`` | a second engine, which keeps whole matrices of derivatives |
| ``torch_names`` | PyTorch's functions, in NumPy: values of the table's rows |
| ``recurrent`` | recurrent layers, as loops in NumPy |
| ``loops`` | recurrences as loops of Tensors whose states are marked; steps of layers, written out |
| ``torch_layers`` | PyTorch's layers with the weights of ours |
| ``wide_range`` | gradients through a recurrence in numbers of unlimited range |
| ``beam_search`` | decoding as the textbook has it |
"""
