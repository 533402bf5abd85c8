# Inference calls from inside the process: the same way through the data plane, with a Python callable as the sink.
cimport cython

from kernels.exchange cimport GRPC, Exchange, Intake, ReplySink


@cython.final
cdef class LocalCall(ReplySink):
    cdef Intake intake
    cdef Exchange exchange
    cdef object done

    def __init__(self, Intake intake not None, bytes message not None, double deadline, done):
        self.intake = intake
        self.done = done
        cdef Exchange x = intake.acquire(self, 0, GRPC)
        self.exchange = x
        x.deadline = deadline
        x.request.body.append(<const char*>message, len(message))
        intake.submit(x)

    cdef void reply(self, Exchange x) noexcept:
        cdef bytes answer = (<char*>x.answer.data())[:x.answer.size()] if x.answer.size() else b""
        cdef bytes message = x.message
        code, retry_after = x.code, x.retry_after
        self.exchange = None
        self.intake.release(x)
        done, self.done = self.done, None
        done(code, message, answer, retry_after)

    def cancel(self):
        cdef Exchange x = self.exchange
        self.exchange = None
        self.done = None
        if x is not None:
            self.intake.cancel(x)
