"""PyTorch's names that are not ours, and what to write instead: data for the messages of ``calls.py``.

The text between "write" and a semicolon is code, which the tests run.
"""

from __future__ import annotations

IN_PLACE = "no method writes into a tensor: use the result of the operation, or x.assign(values) for a leaf"
SEEDS = (
    "there is no global generator: pass rng=0, or a numpy.random.Generator, to functions and layers"
)

TENSOR = {
    "absolute": "write x.abs(), or tg.absolute(x)",
    "add": "write x + y, or tg.add(x, y)",
    "div": "write x / y",
    "mul": "write x * y",
    "neg": "write -x",
    "sub": "write x - y",
    "addmm": "write x + a @ b",
    "allclose": "write np.allclose(x.numpy(), y.numpy())",
    "bfloat16": "NumPy has no bfloat16; write x.half() or x.astype('float32')",
    "bool": "write x != 0",
    "chunk": "write [x[:n], x[n:]]",
    "clamp_max": "write x.clip(max=1.0)",
    "clamp_min": "write x.clip(min=0.0)",
    "copy": "write x.clone(), or tg.copy(x)",
    "element_size": "write x.dtype.itemsize",
    "gather": "write x[i, indices] with i = np.arange(len(x))[:, None]",
    "grad_fn": "write tg.inspect.trace(loss); it shows the graph behind loss",
    "index_add": "write tg.scatter_add, or x + tg.eye(len(x))[indices].T @ values",
    "index_select": "write x.take(indices, axis=0)",
    "int": "write x.astype('int32')",
    "is_contiguous": "the layout in memory is not part of a tensor here",
    "is_cuda": "write x.device != 'cpu'",
    "is_floating_point": "write x.dtype.kind == 'f'",
    "long": "write x.astype('int64')",
    "lt": "write x < y",
    "gt": "write x > y",
    "le": "write x <= y",
    "lerp": "write x + 0.5 * (y - x)",
    "ge": "write x >= y",
    "eq": "write x == y",
    "ne": "write x != y",
    "median": "write tg.median(x); for an even number of elements it is the mean of the two in the middle",
    "mode": "write np.unique(x.numpy(), return_counts=True)",
    "movedim": "write tg.moveaxis(x, 0, 1)",
    "narrow": "write x[:, start : start + length]",
    "nelement": "write x.numel() or x.size",
    "new_ones": "write tg.ones(shape, dtype=x.dtype, device=x.device)",
    "new_tensor": "write tg.tensor(data, dtype=x.dtype, device=x.device)",
    "new_zeros": "write tg.zeros(shape, dtype=x.dtype, device=x.device)",
    "nonzero": "write np.argwhere(x.numpy())",
    "register_hook": "write tg.inspect.trace(loss); its nodes have the gradients that a hook would see",
    "reciprocal": "write tg.reciprocal(x), or 1 / x",
    "repeat": "write x.tile((2, 1)); tg.repeat(x, 2) is NumPy's, which repeats each element",
    "rsqrt": "write 1 / tg.sqrt(x)",
    "scatter": "write tg.where, tg.concat or tg.scatter_add",
    "select": "write x[:, i]; tg.select is NumPy's, which chooses by conditions",
    "short": "write x.astype('int16')",
    "sort": "write tg.sort(x); it returns only the values, and tg.argsort(x) their indices",
    "split": "write tg.split(x, [n]); a list holds the indices to cut at, a number is the number of parts",
    "storage": "write x.numpy()",
    "stride": "the layout in memory is not part of a tensor here",
    "to_sparse": "tensors are dense here",
    "topk": "write tg.take(v, tg.argsort(-v)[:n])",
    "type": "write x.dtype; x.astype('float64') changes it",
    "unbind": "write x.unstack(axis=0)",
    "unique": "write np.unique(x.numpy())",
    "unfold": "write tg.stack([x[i : i + n] for i in range(0, len(x) - n + 1, step)])",
}
"""Names of a Tensor. Names that end in an underscore share one message, ``IN_PLACE``."""

MODULE = {
    "add_module": "write module.name = layer; assigned modules are found",
    "bfloat16": "NumPy has no bfloat16; write model.half() or model.float()",
    "buffers": "keep constants in a plain attribute; state_dict() holds parameters only",
    "compile": "recurrent layers are compiled as they are; there is nothing to call",
    "copy": "write copy.deepcopy(model)",
    "get_parameter": "write dict(model.named_parameters())['layer.weight']",
    "get_submodule": "write dict(model.named_modules())['layer']",
    "named_buffers": "keep constants in a plain attribute",
    "register_backward_hook": "write tg.inspect.trace(loss) or tg.inspect.gradient_flow(loss)",
    "register_buffer": "write module.name = value; a plain attribute, which state_dict() leaves out",
    "register_forward_hook": "write tg.inspect.trace(loss); its nodes have their values",
    "register_full_backward_hook": "write tg.inspect.trace(loss) or tg.inspect.gradient_flow(loss)",
    "register_module": "write module.name = layer; assigned modules are found",
    "register_parameter": "write module.name = tg.nn.Parameter(values); assigned parameters are found",
    "reset_parameters": "make the layer again, with rng=",
    "share_memory": "tensors cannot be shared between processes here",
    "to_empty": "write model.to(device)",
    "type": "write model.to(dtype='float64')",
}
"""Names of a Module."""

OPTIMIZER = {
    "defaults": "write optimizer.param_groups[0]; it holds the settings",
    "register_step_pre_hook": "call the function before optimizer.step()",
    "register_step_post_hook": "call the function after optimizer.step()",
}
"""Names of an Optimizer."""

SCHEDULE = {
    "get_lr": "write schedule.get_last_lr()",
    "print_lr": "write print(schedule.get_last_lr())",
}
"""Names of a schedule of learning rates."""

TG = {
    "around": "write tg.round(x)",
    "clone": "write x.clone()",
    "flatten": "write x.flatten(1)",
    "linalg": "write x @ y, or tg.norm(x); inverses and decompositions do not exist here",
    "unbind": "write tg.unstack(x, axis=0)",
    "FloatTensor": "write tg.tensor(data)",
    "LongTensor": "write tg.tensor(data, dtype='int64')",
    "allclose": "write np.allclose(x.numpy(), y.numpy())",
    "amax": "write tg.max(x, axis=0)",
    "amin": "write tg.min(x, axis=0)",
    "autograd": "write tg.grad(x.sum(), x); there are tg.jacobian, tg.hessian, tg.vjp and tg.jvp too",
    "backends": "there are no switches: pass device=, or tg.use_device('cuda')",
    "bernoulli": "write tg.tensor(np.random.default_rng(0).random(p.shape) < p.numpy())",
    "bmm": "write x @ y",
    "bool": "write dtype='bool'",
    "checkpoint": "write tg.remat(f)(x)",
    "chunk": "write tg.array_split(x, n); sizes differ by at most one",
    "compile": "recurrent layers are compiled as they are; there is nothing to call",
    "device": "a device is a string: write 'cpu', 'cuda' or 'cuda:1'",
    "distributions": "draw with np.random.default_rng(0); logits give tg.log_softmax(logits)",
    "div": "write x / y",
    "double": "write dtype='float64'",
    "empty": "write tg.zeros(shape)",
    "empty_like": "write tg.zeros_like(x)",
    "float": "write dtype='float32'",
    "float16": "write dtype='float16'",
    "from_dlpack": "write tg.tensor(array)",
    "func": "write tg.grad(x.sum(), x); there are tg.jacobian, tg.hessian, tg.vjp and tg.jvp too",
    "gather": "write x[i, indices] with i = np.arange(len(x))[:, None]",
    "get_default_dtype": "write 'float32'; Python numbers become it",
    "half": "write dtype='float16'",
    "inference_mode": "write tg.no_grad()",
    "int": "write dtype='int32'",
    "is_grad_enabled": "write (x * 1).requires_grad; x is one that requires grad",
    "is_tensor": "write isinstance(x, tg.Tensor)",
    "long": "write dtype='int64'",
    "manual_seed": SEEDS,
    "masked_fill": "write tg.where(mask, value, x)",
    "mm": "write x @ y",
    "mul": "write x * y",
    "mv": "write x @ v",
    "multinomial": "write generator.choice(len(p), p=p.numpy()) with generator = np.random.default_rng(0)",
    "neg": "write -x",
    "nonzero": "write np.argwhere(x.numpy())",
    "normal": "write tg.tensor(np.random.default_rng(0).normal(size=shape), dtype='float32')",
    "numel": "write x.size",
    "permute": "write tg.permute_dims(x, (1, 0))",
    "rand": "write tg.tensor(np.random.default_rng(0).random(shape), dtype='float32')",
    "rand_like": "write tg.tensor(np.random.default_rng(0).random(x.shape), dtype=x.dtype)",
    "randint": "write tg.tensor(np.random.default_rng(0).integers(low, high, shape))",
    "randn": "write tg.tensor(np.random.default_rng(0).normal(size=shape), dtype='float32')",
    "randn_like": "write tg.tensor(np.random.default_rng(0).normal(size=x.shape), dtype=x.dtype)",
    "random": SEEDS,
    "randperm": "write tg.tensor(np.random.default_rng(0).permutation(n))",
    "rsqrt": "write 1 / tg.sqrt(x)",
    "seed": SEEDS,
    "set_default_device": "write tg.use_device('cuda')",
    "set_default_dtype": "pass dtype= to tensors and layers, or write model.to(dtype='float64')",
    "set_grad_enabled": "write tg.no_grad() or tg.enable_grad()",
    "sub": "write x - y",
    "t": "write x.T",
    "topk": "write tg.take(v, tg.argsort(-v)[:n])",
    "utils": "write tg.optim.clip_grad_norm_(parameters, 1.0), or tg.remat(f), which is checkpointing",
}
"""Names of the package."""

NN = {
    "BCELoss": "write -tg.mean(y * tg.log(p) + (1 - y) * tg.log(1 - p))",
    "BCEWithLogitsLoss": "write tg.nn.cross_entropy(logits, targets); give two logits a row",
    "BatchNorm1d": "write tg.nn.LayerNorm(sizes); it needs no statistics of the batch",
    "Conv1d": "there are no convolutions here; a sequence goes into tg.nn.RNN or tg.nn.LSTM",
    "Conv2d": "there are no convolutions here; a sequence goes into tg.nn.RNN or tg.nn.LSTM",
    "ELU": "write lambda x: tg.where(x > 0, x, tg.expm1(x.clip(max=0))); tg.nn.Sequential takes functions",
    "CrossEntropyLoss": "write tg.nn.cross_entropy(logits, targets); classes are on the last axis",
    "DataParallel": "a model lives on one device: write model.to('cuda')",
    "Flatten": "write lambda x: x.flatten(1); tg.nn.Sequential takes functions",
    "GELU": "write lambda x: x * tg.sigmoid(1.702 * x); it is close, and tg.nn.Sequential takes functions",
    "HuberLoss": "write tg.mean(tg.where(tg.abs(pred - target) < 1, tg.square(pred - target) / 2, "
    "tg.abs(pred - target) - 0.5))",
    "Identity": "write lambda x: x; tg.nn.Sequential takes functions",
    "L1Loss": "write tg.mean(tg.abs(pred - target))",
    "LeakyReLU": "write lambda x: tg.where(x > 0, x, 0.01 * x); tg.nn.Sequential takes functions",
    "LogSoftmax": "write tg.log_softmax; tg.nn.Sequential takes functions",
    "MSELoss": "write tg.nn.mse_loss(pred, target)",
    "MultiheadAttention": "write tg.softmax(q @ k.mT / d**0.5) @ values",
    "NLLLoss": "write tg.nn.cross_entropy(logits, targets); logits are unnormalized",
    "ParameterList": "write [tg.nn.Parameter(values)]; a list is found as it is",
    "ReLU": "write tg.relu; tg.nn.Sequential takes functions",
    "SiLU": "write lambda x: x * tg.sigmoid(x); tg.nn.Sequential takes functions",
    "Sigmoid": "write tg.sigmoid; tg.nn.Sequential takes functions",
    "Softmax": "write tg.softmax; tg.nn.Sequential takes functions",
    "Tanh": "write tg.tanh; tg.nn.Sequential takes functions",
    "Transformer": "it is made of tg.nn.Linear, tg.nn.LayerNorm and tg.softmax",
    "parameter": "write tg.nn.Parameter",
    "utils": "write tg.optim.clip_grad_norm_(parameters, 1.0); pad sequences with tg.pad, and pass layers "
    "their lengths=",
}
"""Names of ``tg.nn``."""

INIT = {
    "eye_": "write weight.assign(np.eye(*weight.shape))",
    "kaiming_normal_": "write tg.nn.init.normal_(weight, std=(2 / weight.shape[1]) ** 0.5)",
    "kaiming_uniform_": (
        "write tg.nn.init.uniform_(weight, -bound, bound) with bound = (6 / weight.shape[1]) ** 0.5"
    ),
    "ones_": "write tg.nn.init.constant_(weight, 1.0)",
    "trunc_normal_": "write tg.nn.init.normal_(weight, std=0.02)",
    "xavier_normal_": "write tg.nn.init.normal_(weight, std=(2 / sum(weight.shape)) ** 0.5)",
    "xavier_uniform_": (
        "write tg.nn.init.uniform_(weight, -bound, bound) with bound = (6 / sum(weight.shape)) ** 0.5"
    ),
    "zeros_": "write tg.nn.init.constant_(weight, 0.0)",
}
"""Names of ``tg.nn.init``."""

FUNCTIONAL = {
    "binary_cross_entropy": "write -tg.mean(y * tg.log(p) + (1 - y) * tg.log(1 - p))",
    "binary_cross_entropy_with_logits": (
        "write tg.mean(tg.relu(x) - x * y + tg.log1p(tg.exp(-tg.abs(x)))); x are the logits"
    ),
    "dropout": "write tg.nn.Dropout(0.5, rng=0); the layer holds its generator",
    "embedding": "write weight[indices]",
    "gelu": "write x * tg.sigmoid(1.702 * x); it is close",
    "l1_loss": "write tg.mean(tg.abs(pred - target))",
    "layer_norm": "write tg.nn.LayerNorm(sizes)",
    "normalize": "write x / tg.norm(x, axis=-1, keepdims=True)",
    "nll_loss": "write tg.nn.functional.cross_entropy(logits, targets); logits are unnormalized",
    "one_hot": "write tg.eye(classes)[indices]",
    "pad": "write tg.pad(x, ((0, 0), (1, 1))); a pair is for an axis",
    "scaled_dot_product_attention": "write tg.softmax(q @ k.mT / d**0.5) @ values",
    "silu": "write x * tg.sigmoid(x)",
    "smooth_l1_loss": "write tg.mean(tg.where(tg.abs(pred - target) < 1, tg.square(pred - target) / 2, "
    "tg.abs(pred - target) - 0.5))",
    "softplus": "write tg.logsumexp(tg.stack([x, tg.zeros_like(x)]), axis=0)",
}
"""Names of ``tg.nn.functional``."""

OPTIM = {
    "Adadelta": "write tg.optim.Adam(parameters)",
    "Adagrad": "write tg.optim.Adam(parameters)",
    "LBFGS": "write tg.optim.SGD(parameters, lr=0.1); there are no line searches",
    "NAdam": "write tg.optim.Adam(parameters)",
    "RAdam": "write tg.optim.lr_scheduler.LinearLR(optimizer); it warms tg.optim.Adam up",
    "RMSprop": "write tg.optim.Adam(parameters, betas=(0.0, 0.99))",
    **{
        name: f"write tg.optim.lr_scheduler.{name}"
        for name in ("CosineAnnealingLR", "ExponentialLR", "LambdaLR", "LinearLR", "StepLR")
    },
}
"""Names of ``tg.optim``."""

LR_SCHEDULER = {
    "OneCycleLR": "write tg.optim.lr_scheduler.SequentialLR; it takes LinearLR and CosineAnnealingLR",
    "ReduceLROnPlateau": "set optimizer.lr yourself where the loss stops falling",
    "CyclicLR": "write tg.optim.lr_scheduler.LambdaLR(optimizer, lambda steps: 1.0)",
}
"""Names of ``tg.optim.lr_scheduler``."""

CUDA = {
    "current_device": "write x.device",
    "device_count": "write tg.cuda_is_available(); devices are 'cuda:0', 'cuda:1' and so on",
    "empty_cache": "write cupy.get_default_memory_pool().free_all_blocks(); CuPy keeps freed memory",
    "is_available": "write tg.cuda_is_available()",
    "manual_seed": SEEDS,
    "manual_seed_all": SEEDS,
    "set_device": "write tg.use_device('cuda:1')",
    "synchronize": "reading a number waits for the device: write x.item() or x.numpy()",
}
"""Names of ``tg.cuda``."""

KEYWORDS = {
    "dim": ("axis", "axes"),
    "dims": ("axis", "axes"),
    "keepdim": ("keepdims",),
    "input": ("x", "a", "pred", "logits"),
    "target": ("targets",),
    "a": ("low",),
    "b": ("high",),
    "val": ("value",),
}
"""PyTorch's name of an argument → our names of it."""

TWO_RESULTS = "returns only values: write axis={axis}, and tg.arg{name} for the indices"
CORRECTION = "divides by n by default: write axis={axis}, and correction=1 for PyTorch's result"
NOT_THE_SAME = {
    "max": TWO_RESULTS,
    "min": TWO_RESULTS,
    "sort": TWO_RESULTS,
    "var": CORRECTION,
    "std": CORRECTION,
    "median": (
        "returns no indices, and the mean of the two middle elements where PyTorch returns the lower: "
        "write axis={axis}"
    ),
    "split": (
        "takes the number of parts, and PyTorch's takes their size: write axis={axis}, and a list of the "
        "indices to cut at"
    ),
}
"""Functions whose form with ``dim=`` in PyTorch returns something else than ours."""

ARGUMENTS = {
    "alpha": "write x + alpha * y",
    "allow_unused": "leave it out: the gradient of an unused input is None",
    "amsgrad": "it does not exist here",
    "bidirectional": "layers have it: tg.nn.RNN, LSTM, GRU",
    "capturable": "leave it out",
    "check_nan": "leave it out: NaN is always checked for",
    "closure": "compute the gradients first, then call step()",
    "copy": "write x.clone()",
    "descending": "write tg.argsort(-x), or tg.flip of the sorted tensor",
    "dim0": "write x.swapaxes(0, 1)",
    "dim1": "write x.swapaxes(0, 1)",
    "dropout": "put tg.nn.Dropout between layers",
    "epoch": "call step() once for each step",
    "exponent": "write x ** exponent",
    "force": "write x.detach().numpy()",
    "foreach": "leave it out",
    "fused": "leave it out",
    "ignore_index": "first select the elements that count: cross_entropy(logits[mask], targets[mask])",
    "inplace": "leave it out: no function overwrites its arguments",
    "label_smoothing": "compose it from tg.log_softmax",
    "map_location": "write device=",
    "maximize": "minimize the negative: (-loss).backward()",
    "memory_format": "leave it out: the layout in memory is not part of a tensor here",
    "nesterov": "it does not exist here",
    "non_blocking": "leave it out",
    "p": "a norm takes ord= and axis=; tg.vector_norm(x, ord=1) is the norm of all elements",
    "out": "use the result",
    "proj_size": "apply tg.nn.Linear(hidden_size, proj_size, bias=False) to the output",
    "reduction": "leave it out: losses are means of all elements; multiply by their number for the sum",
    "requires_grad": "write .requires_grad_(False) after it",
    "size_average": "leave it out: losses are means of all elements",
    "unbiased": "write correction=1 (unbiased) or correction=0",
    "weights_only": "leave it out: nothing is ever unpickled",
}
"""PyTorch's arguments that ours do not have."""
