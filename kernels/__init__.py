"""The compiled hot path: bytes, shapes, queues, clocks as parameters. Knows no model, registry, policy, asyncio or log."""
