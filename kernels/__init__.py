"""The compiled hot path: bytes, shapes, queues, clocks as parameters. Knows no model, policy, asyncio or log."""
