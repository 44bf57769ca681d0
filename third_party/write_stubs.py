"""Write the type stubs of the C++ core: `python third_party/write_stubs.py FOLDER` fills FOLDER/fastserve/_C.

pybind11-stubgen takes types from signatures. The arrays of the core are C getters without one (`define_array` in
csrc/bindings), so their type comes from the start of their docstring, for example "int32 [num_rows]".

The stubs in the tree are those of Python 3.11, the oldest that is supported.
"""

import enum
import inspect
import re
import sys
import typing
from typing import Any

import pybind11_stubgen as stubgen
from pybind11_stubgen.parser.interface import IParser
from pybind11_stubgen.structs import (
    Argument,
    Attribute,
    Class,
    Docstring,
    Field,
    Function,
    Identifier,
    Property,
    QualifiedName,
    ResolvedType,
    Value,
)

GENERIC = {"list": ["typing.Any"], "dict": ["str", "typing.Any"]}
DTYPE_AND_SHAPE = re.compile(r"(u?int\d+|float\d+) \[.*?\]")


class CoreParser(IParser):
    """What a parser does besides: C getters return numpy arrays; enums have their members as values; types of literals stay."""

    def handle_attribute(self, path: QualifiedName, attr: Any) -> Attribute | None:
        """Return the stub of an attribute; that of a type of literals is the type itself."""
        if typing.get_origin(attr) is not typing.Literal:
            return super().handle_attribute(path, attr)
        self.handle_type(type(attr))  # imports typing
        return Attribute(name=path[-1], value=Value(repr(attr), is_print_safe=True))

    def handle_class(self, path: QualifiedName, class_: type) -> Class | None:
        """Return the stub of a class; of an enum, the members alone."""
        result = super().handle_class(path, class_)
        if result is not None and issubclass(class_, enum.Enum):
            result.methods = []
            result.fields = [
                Field(Attribute(Identifier(name), Value(repr(member.value), is_print_safe=True)), modifier="static")
                for name, member in class_.__members__.items()
            ]
        return result

    def parse_annotation_str(self, annotation_str: str) -> Any:
        """Return an annotation; a list or dict without parameters is one of anything."""
        result = super().parse_annotation_str(annotation_str)
        if isinstance(result, ResolvedType) and not result.parameters and str(result.name) in GENERIC:
            result.parameters = [self.parse_annotation_str(text) for text in GENERIC[str(result.name)]]
        return result

    def handle_function(self, path: QualifiedName, func: Any) -> list[Function]:
        """Return the stubs of a function; keywords of any name take any value."""
        result = super().handle_function(path, func)
        for argument in (argument for each in result for argument in each.args if argument.kw_variadic):
            argument.annotation = self.parse_annotation_str("typing.Any")
        return result

    def handle_property(self, path: QualifiedName, prop: Any) -> Property | None:
        """Return the stub of a property.

        Raises:
            SystemExit: the docstring of an array does not start with its dtype and shape.
        """
        if not inspect.isgetsetdescriptor(prop):
            return super().handle_property(path, prop)
        found = DTYPE_AND_SHAPE.match(prop.__doc__ or "")
        if not found:
            sys.exit(f"{path}: the docstring must start with dtype and shape, as 'int32 [n]', got {prop.__doc__!r}")
        returns = self.parse_annotation_str(f"numpy.typing.NDArray[numpy.{found[1]}]")
        getter = Function(name=path[-1], args=[Argument(name=Identifier("self"))], returns=returns)
        return Property(name=path[-1], modifier=None, doc=Docstring(prop.__doc__), getter=getter)


def main(folder: str) -> None:
    """Write the stubs below `folder`; an unreadable signature ends the process."""
    arguments = stubgen.arg_parser().parse_args(
        ["fastserve._C", "--output-dir", folder, "--exit-code"], namespace=stubgen.CLIArgs()
    )
    parser = stubgen.stub_parser_from_args(arguments)
    parser.__class__ = type("Parser", (CoreParser, type(parser)), {})
    stubgen.run(
        parser,
        stubgen.Printer(invalid_expr_as_ellipses=True),
        arguments.module_names,
        folder,
        root_suffix=None,
        dry_run=False,
        writer=stubgen.Writer(stub_ext="pyi"),
    )


if __name__ == "__main__":
    main(sys.argv[1])
