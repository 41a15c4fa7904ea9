"""What all objects of the stand-in have in common."""

from __future__ import annotations

import ctypes


class _Binding(type):
    def __new__(cls, name, bases, members):
        members.setdefault("__slots__", ())
        return super().__new__(cls, name, bases, members)


class Sealed(metaclass=_Binding):
    """Like a class of pybind11: setting what it does not have is an AttributeError."""

    __slots__ = ("_",)  # everything of the stand-in's own, out of a user's way


def property_of(name, kind=None):
    """A property that is kept in the object's own state, and refuses another type as the binding does."""

    def get(self):
        return getattr(self._, name)

    def put(self, value):
        if kind is not None and not isinstance(value, kind):
            raise TypeError(f"(): incompatible function arguments: {name} is a {type(value).__name__}")
        setattr(self._, name, value)

    return property(get, put)


def host_memory(data):
    """An `IHostMemory`: a buffer with a size, and nothing else of bytes; true as any object is."""

    def refuse(self, *_):
        raise TypeError("object of type 'tensorrt.IHostMemory' has no len() and no items")

    members = {
        "nbytes": property(lambda self: ctypes.sizeof(self)),
        "__len__": refuse,
        "__getitem__": refuse,
        "__iter__": refuse,
        "__bool__": lambda self: True,
        "__enter__": lambda self: self,
        "__exit__": lambda self, *_: None,
    }
    kind = type("IHostMemory", (ctypes.c_ubyte * len(data),), members)
    return kind.from_buffer_copy(data)
