"""Protocol messages, generated from `proto/` by `python -m gateway.pb.generate`; see there for what is special."""
