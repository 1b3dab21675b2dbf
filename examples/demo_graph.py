"""Printed IR in a form to read: what computes, with its operands in place.

`inv-opt -S` prints everything a graph consists of. To see what a pass did, one
wants the operators: here constants, lists and attributes of the module are
written where they are used, and the list that an operator returns is replaced
by its elements' names.
"""

import re

NODE = re.compile(r"  (?P<outputs>.*?)(?:^|(?<=\s))= (?P<kind>[\w:]+)"
                  r"(?:\[(?P<attributes>.*)\])?\((?P<inputs>[^()]*)\)"
                  r"(?:\s*# (?P<source>\S+))?$")
VALUE = re.compile(r"%[\w.]+")


def names(text):
    """Names of values, without their types."""
    return VALUE.findall(re.sub(r" : [^%]*", " ", text))


def sections(ir):
    """The graphs of a printed module: method name -> the lines of its nodes."""
    graphs, method, lines = {}, "forward", None
    for line in ir.split("\n"):
        if line.startswith("# method "):
            method = line.removeprefix("# method ").strip()
        elif line.startswith("graph("):
            lines = graphs[method] = [line]
        elif not line.strip() or line.startswith("#"):
            lines = None
        elif lines is not None:
            lines.append(line)
    return graphs


def constant(output, attributes):
    """What a prim::Constant holds, as Python would write it."""
    if not attributes:
        return "None"
    value = attributes.removeprefix("value=")
    if output.endswith(" : bool"):
        return str(value == "1")
    return repr(float(value)) if output.endswith(" : float") else value


class Reader:
    """One graph, node by node; `known` holds what is written in place."""

    def __init__(self):
        self.known, self.lines, self.lists = {}, [], {}

    def operand(self, name):
        return self.known.get(name, name)

    def node(self, line):
        match = NODE.match(line)
        if not match:
            self.lines.append([[], line.strip(), None, None])
            return
        kind, source = match["kind"], match["source"]
        outputs = names(match["outputs"])
        inputs = [self.operand(i) for i in names(match["inputs"])]
        if kind == "prim::Constant":
            self.known[outputs[0]] = constant(match["outputs"].rstrip(),
                                              match["attributes"])
        elif kind == "prim::GetAttr":
            attribute = re.search(r'name="([^"]*)"', match["attributes"])[1]
            self.known[outputs[0]] = f"{inputs[0]}.{attribute}".lstrip(".")
        elif kind == "prim::ListConstruct":
            self.known[outputs[0]] = f"[{', '.join(inputs)}]"
        elif kind == "prim::TupleConstruct":
            self.known[outputs[0]] = f"({', '.join(inputs)})"
        elif kind == "prim::ListUnpack" and inputs[0] in self.lists:
            self.lines[self.lists[inputs[0]]][0] = outputs
        else:
            if match["outputs"].rstrip().endswith("[]") and len(outputs) == 1:
                self.lists[outputs[0]] = len(self.lines)
            self.lines.append([outputs, kind, inputs, source])

    def text(self):
        for outputs, kind, inputs, source in self.lines:
            if inputs is None:  # a line of a block: as it was printed
                yield "  " + kind
                continue
            code = f"{kind}({', '.join(inputs)})"
            if outputs:
                code = f"{', '.join(outputs)} = {code}"
            # Of a source, the file's name and the line are enough.
            where = re.search(r"([^/\s]+\.py:\d+)", source or "")
            yield "  " + code + (f" # {where[1]}" if where else "")


def readable(graph):
    """A graph's lines, as `sections` gives them, in the form to read."""
    body = next(i for i, line in enumerate(graph) if line.endswith("):")) + 1
    header = " ".join(line.strip() for line in graph[:body])
    parameters = names(header)
    reader = Reader()
    # Of the module's attributes, the path is enough: blocks.0.f.norm.weight.
    reader.known[parameters[0]] = ""
    for line in graph[body:-1]:
        reader.node(line)
    returned = [reader.operand(v) for v in names(graph[-1])]
    return "\n".join([f"graph({', '.join(parameters[1:])}):",
                      *reader.text(), f"  return {', '.join(returned)}"])
