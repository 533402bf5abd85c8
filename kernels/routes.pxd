# An immutable table from a model's name to what serves it. See routes.pyi.
from libcpp.string cimport string
from libcpp.unordered_map cimport unordered_map

from kernels.infer cimport string_view

cdef enum RouteMiss:
    FOUND = 0
    UNKNOWN_MODEL = 1
    NO_VERSIONS = 2
    UNKNOWN_VERSION = 3
    VERSION_NOT_READY = 4


cdef extern from "name_map.hpp" namespace "sluice" nogil:
    cdef cppclass NameMap:
        void add(string, int) except +
        int find(string_view)


cdef class ModelRoute:
    cdef readonly object default
    cdef readonly dict versions
    cdef NameMap index
    cdef list targets


cdef class RouteTable:
    cdef readonly dict models
    cdef NameMap index
    cdef list routes
    # The target, or None with the reason in `miss`.
    cdef object pick(self, string_view model, string_view version, int* miss)
