# Which target serves a request for a model, and possibly a version.
cimport cython

from kernels.infer cimport string_view
from kernels.rollout cimport Rollout


@cython.final
cdef class ModelRoute:
    def __init__(self, default, versions, aliases=(), Rollout rollout=None):
        self.default = default
        self.versions = dict(versions)
        self.aliases = dict(aliases)
        self.rollout = rollout
        self.targets = []
        for version, target in self.versions.items():
            self.index.add(version.encode(), len(self.targets))
            self.targets.append(target)
        # Behind the versions: a version's own name is never taken for an alias.
        for alias, version in self.aliases.items():
            self.index.add(alias.encode(), len(self.targets))
            self.targets.append(self.versions.get(version))

    cdef object pick(self, string_view version, int* miss):
        cdef int at
        if version.empty():
            if self.default is not None:
                miss[0] = FOUND
            else:
                miss[0] = NO_VERSIONS if len(self.versions) == 0 else VERSION_NOT_READY
            return self.default
        at = self.index.find(version)
        if at < 0:
            miss[0] = UNKNOWN_VERSION
            return None
        target = self.targets[at]
        miss[0] = VERSION_NOT_READY if target is None else FOUND
        return target


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
            if (<ModelRoute>route).rollout is not None:
                for header in (<ModelRoute>route).rollout.headers:
                    self.headers.add(header.encode(), 0)
                    self.has_headers = True
                for parameter in (<ModelRoute>route).rollout.parameters:
                    self.parameters.push_back(parameter.encode())

    cdef ModelRoute find(self, string_view model):
        cdef int at = self.index.find(model)
        return None if at < 0 else <ModelRoute>self.routes[at]

    cdef object pick(self, string_view model, string_view version, int* miss):
        cdef ModelRoute route = self.find(model)
        if route is None:
            miss[0] = UNKNOWN_MODEL
            return None
        return route.pick(version, miss)

    def lookup(self, str model, str version=""):
        cdef bytes name = model.encode(), wanted = version.encode()
        cdef int miss = FOUND
        target = self.pick(string_view(<const char*>name, len(name)),
                           string_view(<const char*>wanted, len(wanted)), &miss)
        return target, ("found", "unknown_model", "no_versions", "unknown_version", "version_not_ready")[miss]
