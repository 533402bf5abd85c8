# An immutable table from a model's name to what serves it. See routes.pyi.
from libcpp cimport bool as cbool
from libcpp.string cimport string
from libcpp.vector cimport vector

from kernels.infer cimport string_view
from kernels.rollout cimport Rollout

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
    cdef readonly dict versions, aliases
    cdef readonly Rollout rollout
    cdef NameMap index                 # of versions and aliases
    cdef list targets
    cdef object pick(self, string_view version, int* miss)


cdef class RouteTable:
    cdef readonly dict models
    cdef NameMap index
    cdef list routes
    # What the rollouts want to see of requests.
    cdef NameMap headers
    cdef cbool has_headers
    cdef vector[string] parameters
    # None: the model is unknown.
    cdef ModelRoute find(self, string_view model)
    # The target, or None with the reason in `miss`.
    cdef object pick(self, string_view model, string_view version, int* miss)
