# Which target serves a request for a model, and possibly a version.
cimport cython

from kernels.infer cimport string_view


@cython.final
cdef class ModelRoute:
    def __init__(self, default, versions):
        self.default = default
        self.versions = dict(versions)
        self.targets = []
        for version, target in self.versions.items():
            self.index.add(version.encode(), len(self.targets))
            self.targets.append(target)


@cython.final
cdef class RouteTable:
    def __init__(self, models=()):
        self.models = dict(models)
        self.routes = []
        for name, route in self.models.items():
            if not isinstance(route, ModelRoute):
                raise TypeError(f"a route table maps names to ModelRoute, not to {type(route).__name__}")
            self.index.add(name.encode(), len(self.routes))
            self.routes.append(route)

    cdef object pick(self, string_view model, string_view version, int* miss):
        cdef int at = self.index.find(model)
        cdef ModelRoute route
        if at < 0:
            miss[0] = UNKNOWN_MODEL
            return None
        route = <ModelRoute>self.routes[at]
        if version.empty():
            if route.default is not None:
                miss[0] = FOUND
            else:
                miss[0] = NO_VERSIONS if len(route.targets) == 0 else VERSION_NOT_READY
            return route.default
        at = route.index.find(version)
        if at < 0:
            miss[0] = UNKNOWN_VERSION
            return None
        target = route.targets[at]
        miss[0] = VERSION_NOT_READY if target is None else FOUND
        return target

    def lookup(self, str model, str version=""):
        cdef bytes name = model.encode(), wanted = version.encode()
        cdef int miss = FOUND
        target = self.pick(string_view(<const char*>name, len(name)),
                           string_view(<const char*>wanted, len(wanted)), &miss)
        return target, ("found", "unknown_model", "no_versions", "unknown_version", "version_not_ready")[miss]
