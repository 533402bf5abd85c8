# What a model version takes and gives, and the check of a request against it: signature.hpp, filled from Python.
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.string cimport string
from libcpp.vector cimport vector

from kernels.infer cimport DataType, InferRequest, WireError, string_view


cdef extern from "signature.hpp" namespace "sluice" nogil:
    cdef cppclass TensorSpec:
        TensorSpec()
        string name
        int64_t shape[16]
        int32_t rank
        DataType datatype
        cbool optional
        vector[string] labels
        uint32_t index
        cbool reshaped
        int64_t engine_shape[16]
        int32_t engine_rank

    cdef cppclass Signature:
        string model
        vector[TensorSpec] inputs
        vector[TensorSpec] outputs
        int64_t max_batch_size
        int find_output(string_view)

    cdef cppclass Binding:
        uint64_t inputs_mask
        uint64_t outputs_mask
        uint64_t group
        int64_t rows
        int64_t nbytes

    cbool bind(const Signature&, InferRequest&, Binding&, WireError&) except +


# Appends the tensors (see `kernels.deployment.Tensor`). ValueError for those that no signature can have.
cdef int fill_specs(vector[TensorSpec]& specs, tensors) except -1
