# Declarations of http1_answer.hpp and http1_slot.hpp: answers as bytes, and the slots that they come from.
from cpython.object cimport PyObject
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t
from libcpp cimport bool as cbool

from kernels.http1_head cimport Coding
from kernels.infer cimport Buffer, string_view


cdef extern from "http1_answer.hpp" namespace "sluice" nogil:
    cdef cppclass Answer:
        int status
        cbool head_only
        cbool close
        cbool says_keep_alive
        cbool varies
        Coding coding
        string_view content_type
        string_view version
        string_view extra
        int64_t header_length
        int64_t retry_after

    cbool has_body(int status)
    cbool append_answer(Buffer& out, const Answer& answer, const uint8_t* body, size_t size)
    cbool append_answer_head(Buffer& out, const Answer& answer, size_t body_size)
    cbool append_error_answer(Buffer& out, Answer answer, string_view message)
    cbool append_continue(Buffer& out)


cdef extern from "http1_slot.hpp" namespace "sluice" nogil:
    cdef enum class SlotKind(uint8_t):
        REFUSAL
        EXCHANGE
        REQUEST

    cdef cppclass Slot:
        PyObject* item
        SlotKind kind
        Coding coding
        cbool is_ready
        cbool close
        cbool is_head
        cbool is_1_0
