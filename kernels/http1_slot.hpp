// One request of a connection, from its head to its answer.
#pragma once

#include <Python.h>

#include <cstdint>

#include "http1_head.hpp"

namespace sluice {

enum class SlotKind : uint8_t { REFUSAL, EXCHANGE, REQUEST };

struct Slot {
    PyObject* item = nullptr;  // a reference that the connection owns: the Exchange or HttpRequest; null for REFUSAL
    SlotKind kind = SlotKind::REFUSAL;
    Coding coding = Coding::IDENTITY;  // what the client likes best
    bool is_ready = false;             // answered, waiting for its turn
    bool close = false;                // the connection ends after this answer
    bool is_head = false;
    bool is_1_0 = false;
};

}  // namespace sluice
