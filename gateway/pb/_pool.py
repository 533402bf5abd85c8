"""The descriptor pool that the generated modules of this package share.

It is private, so that `inference.ModelConfig` and its neighbours can live in one process with another copy of the same
names: client libraries of the protocol register theirs in the process-wide default pool, which refuses a second file
under a known name. It knows no message.
"""

from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()
