# What a model version takes and gives, from how Python describes it.
from libcpp.vector cimport vector

from kernels.infer cimport DataType, datatype_from_name, kMaxRank, string_view
from kernels.lanes cimport kLaneTensors


cdef int fill_specs(vector[TensorSpec]& specs, tensors) except -1:
    cdef TensorSpec spec
    cdef bytes name
    for tensor in tensors:
        name = tensor.datatype.encode()
        spec = TensorSpec()
        spec.name = tensor.name.encode()
        spec.datatype = datatype_from_name(string_view(<const char*>name, len(name)))
        if spec.datatype == DataType.INVALID:
            raise ValueError(f"tensor {tensor.name!r}: unknown datatype {tensor.datatype!r}")
        if len(tensor.shape) > kMaxRank:
            raise ValueError(f"tensor {tensor.name!r}: {len(tensor.shape)} dimensions, {kMaxRank} at most")
        spec.rank = len(tensor.shape)
        for i, dim in enumerate(tensor.shape):
            spec.shape[<int>i] = dim
        spec.index = tensor.index
        if tensor.index >= kLaneTensors:
            raise ValueError(f"tensor {tensor.name!r} has index {tensor.index}, {kLaneTensors - 1} at most")
        spec.optional = tensor.optional
        for label in tensor.labels:
            spec.labels.push_back(label.encode())
        if tensor.engine_shape is not None:
            spec.reshaped = True
            spec.engine_rank = len(tensor.engine_shape)
            for i, dim in enumerate(tensor.engine_shape):
                spec.engine_shape[<int>i] = dim
        specs.push_back(spec)
    if specs.size() > kLaneTensors:
        raise ValueError(f"{specs.size()} tensors, {kLaneTensors} at most")
    return 0
