# Declarations of infer.hpp: the request as views on its own bytes.
from libc.stddef cimport size_t
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.string cimport string
from libcpp.vector cimport vector


cdef extern from "<string_view>" namespace "std" nogil:
    cdef cppclass string_view:
        string_view()
        string_view(const char* data, size_t size)
        const char* data()
        size_t size()
        cbool empty()
        cbool operator==(string_view other)


cdef extern from "infer.hpp" namespace "sluice" nogil:
    const size_t kPadding
    enum: kMaxRank

    cdef enum class DataType(uint8_t):
        INVALID
        BOOL
        UINT8
        UINT16
        UINT32
        UINT64
        INT8
        INT16
        INT32
        INT64
        FP16
        FP32
        FP64
        BYTES
        BF16

    size_t element_size(DataType)
    string_view datatype_name(DataType)
    DataType datatype_from_name(string_view)

    string clipped(string_view, size_t) except +

    cdef cppclass Buffer:
        Buffer()
        uint8_t* data()
        size_t size()
        size_t capacity()
        string_view view()
        void clear()
        void reserve(size_t) except +
        uint8_t* extend(size_t) except +
        void append(const void*, size_t) except +
        void push(char) except +
        void resize(size_t) except +
        void swap(Buffer&)

    cdef cppclass Arena:
        uint8_t* allocate(size_t) except +
        string_view copy(string_view) except +
        void clear()

    cdef cppclass TensorView:
        string_view name
        const uint8_t* data
        size_t size
        int64_t shape[16]
        int32_t rank
        DataType datatype

    cdef cppclass RequestedOutput:
        string_view name
        int64_t classification
        int8_t binary

    cdef cppclass Attribute:
        string_view name
        string_view value
        cbool is_parameter

    cdef cppclass InferRequest:
        Buffer body
        Arena arena
        string_view model
        string_view version
        string_view id
        cbool has_id
        vector[TensorView] inputs
        vector[RequestedOutput] outputs
        vector[Attribute] attributes
        uint64_t priority
        int64_t timeout_us
        cbool binary_data_output
        cbool raw
        void clear()

    cdef cppclass WireError:
        int code
        string text

    cdef cppclass WireLimits:
        size_t max_tensors
        size_t max_rank
        size_t max_json_depth
        size_t max_tensor_bytes
        const vector[string]* wanted_parameters

    cdef cppclass OutputView:
        string_view name
        const uint8_t* data
        size_t size
        int64_t shape[16]
        int32_t rank
        DataType datatype
        int8_t binary
