"""Worker processes. `supervisor`, `instance`, `group` and `placement` run in the gateway; `main`, `zygote`, `worker`
and `confine` run in the children; `spec` and `control` are what the two sides say to each other.

Nothing is imported here: a child must not pay for what only the gateway needs.
"""
