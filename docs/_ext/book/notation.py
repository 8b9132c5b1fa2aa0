"""A formula is Python; this is how it is set: syntax tree → LaTeX.

>>> latex("log(sigmoid(beta * delta))")
'\\\\log \\\\sigma\\\\left(\\\\beta\\\\,\\\\delta\\\\right)'
>>> latex("sum(pi(y) * r(y) for y in Y)")
'\\\\sum_{y \\\\in Y} \\\\pi\\\\left(y\\\\right)\\\\,r\\\\left(y\\\\right)'
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping

from math_core import LatexToMathML

GREEK = {
    name: f"\\{name}" for name in ["alpha", "beta", "gamma", "delta", "zeta", "eta", "theta", "kappa", "mu", "nu", "xi", "pi", "rho", "sigma", "tau", "phi", "psi", "chi", "omega", "Gamma", "Delta", "Theta", "Lambda", "Pi", "Sigma", "Phi", "Psi", "Omega"]
} | {"eps": r"\varepsilon", "epsilon": r"\varepsilon", "lam": r"\lambda", "ell": r"\ell", "inf": r"\infty"}  # fmt: skip
FUNCTIONS = {"log": r"\log", "exp": r"\exp", "sigmoid": r"\sigma", "max": r"\max", "min": r"\min", "sg": r"\mathrm{sg}"}
ACCENTS = {"bar": r"\bar{%s}", "hat": r"\hat{%s}", "tilde": r"\tilde{%s}", "star": "{%s}^{*}", "prime": "{%s}'"}
LEADING = {"log": r"\log ", "grad": r"\nabla ", "d": "d"}  # log_pi, grad_J
CONDITIONED = ("pi", "mu", "ref", "log_pi", "P")  # f(a, s) is set as f(a | s)
RELATIONS: dict[type[ast.cmpop], str] = {
    ast.Eq: "=", ast.NotEq: r"\neq", ast.Lt: "<", ast.LtE: r"\le", ast.Gt: ">", ast.GtE: r"\ge", ast.In: r"\in", ast.NotIn: r"\notin",
}  # fmt: skip
_TO_MATHML = LatexToMathML(pretty_print="never", fancy_error=False)
OR, AND, COMPARE, SUM, PRODUCT, UNARY, POWER, ATOM = range(8)
BIG = {"sum": r"\sum", "prod": r"\prod", "max": r"\max", "min": r"\min", "mean": r"\operatorname{mean}"}


def latex(source: str, symbols: Mapping[str, str] | None = None, comments: Mapping[int, str] | None = None) -> str:
    """An expression, a chain of comparisons or a definition.

    Args:
        source: one statement.
        symbols: names that this page sets in a way of its own.
        comments: line of the source, from 1 → what is said beside it.
    """
    [statement] = ast.parse(source).body
    return statement_latex(statement, symbols, comments)


def statement_latex(
    statement: ast.stmt, symbols: Mapping[str, str] | None = None, comments: Mapping[int, str] | None = None
) -> str:
    """As `latex`, of a parsed statement."""
    setter = _Setter(symbols or {}, comments or {})
    match statement:
        case ast.FunctionDef():
            return setter.definition(statement)
        case ast.Assign(targets=[target], value=value):
            return f"{setter.set(target)} = {setter.set(value)}{setter.remark(statement)}"
        case ast.Expr(value=ast.Compare() as chain):
            return setter.chain(chain)
        case ast.Expr(value=value):
            return setter.set(value) + setter.remark(statement)
        case _:
            raise ValueError(f"a formula is a definition, an equation or an inequality, not {type(statement).__name__}")


def mathml(text: str, *, display: bool) -> str:
    """LaTeX as MathML, inline or displayed.

    Raises:
        LatexError: it is no LaTeX that MathML has.
    """
    return _TO_MATHML.convert_with_local_state(text, displaystyle=display)


class _Setter:
    def __init__(self, symbols: Mapping[str, str], comments: Mapping[int, str]) -> None:
        self.symbols, self.comments = symbols, comments

    def set(self, node: ast.expr, least: int = 0) -> str:
        """The node, in parentheses where it binds less than `least`."""
        text, binds = self.node(node)
        return text if binds >= least else _parenthesised(text)

    def remark(self, node: ast.AST) -> str:
        text = self.comments.get(getattr(node, "end_lineno", 0))
        return rf" \qquad \text{{{_escaped(text)}}}" if text else ""

    def chain(self, node: ast.Compare) -> str:
        """One line where it fits, else a line for each relation."""
        sides = [node.left, *node.comparators]
        last = {side.end_lineno: i for i, side in enumerate(sides)}  # a remark stands beside the last side of its line
        remarks = [self.remark(side) if last[side.end_lineno] == i else "" for i, side in enumerate(sides)]
        parts = [self.set(node.left, SUM)]
        parts += [
            f"{RELATIONS[type(op)]} {self.set(side, SUM)}" for op, side in zip(node.ops, node.comparators, strict=True)
        ]
        if len(parts) == 2:
            return " ".join(parts) + "".join(remarks)
        lines = [f"{parts[0]}{remarks[0]} &{parts[1]}{remarks[1]}"]
        lines += [f"&{part}{remark}" for part, remark in zip(parts[2:], remarks[2:], strict=True)]
        return "\\begin{aligned}" + r" \\ ".join(lines) + "\\end{aligned}"

    def definition(self, node: ast.FunctionDef) -> str:
        names = [self.name(a.arg) for a in node.args.args]
        return f"{self.name(node.name)}{_parenthesised(self._separated(node.name, names))} = {self._body(node.body)}{self.remark(node)}"

    def _body(self, body: list[ast.stmt]) -> str:
        match body:
            case [ast.Return(value=ast.expr() as value)]:
                return self.set(value)
            case [ast.If(test=test, body=[ast.Return(value=ast.expr() as value)], orelse=[]), *rest]:
                cases = [(self.set(value), self.set(test))]
                while rest and isinstance(rest[0], ast.If):
                    branch = rest[0]
                    cases.append((self._body(branch.body), self.set(branch.test)))
                    rest = rest[1:]
                otherwise = self._body(rest)
                rows = [rf"{value} & \text{{if }} {test}" for value, test in cases] + [rf"{otherwise} & \text{{else}}"]
                return r"\begin{cases}" + r" \\ ".join(rows) + r"\end{cases}"
            case _:
                raise ValueError(
                    "a formula's function is `return …`, with `if …: return …` lines before it where it has cases"
                )

    def node(self, node: ast.expr) -> tuple[str, int]:
        match node:
            case ast.Constant(value=value):
                return _constant(value), ATOM
            case ast.Name(id=name):
                return self.name(name), ATOM
            case ast.Attribute(value=value, attr=attr):
                code = attr.replace("_", r"\_")  # a function of the library, by the name that one imports
                return self.symbols.get(ast.unparse(node)) or (
                    rf"\mathtt{{{code}}}" if "_" in attr else self.name(attr)
                ), ATOM
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return f"-{self.set(operand, PRODUCT)}", SUM
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return rf"\lnot {self.set(operand, POWER)}", UNARY
            case ast.UnaryOp(operand=operand):
                return self.node(operand)
            case ast.BinOp():
                return self._binary(node)
            case ast.Compare():
                return self._inline_chain(node), COMPARE
            case ast.BoolOp(op=op, values=values):
                sign, binds = (r" \land ", AND) if isinstance(op, ast.And) else (r" \lor ", OR)
                return sign.join(self.set(v, binds + 1) for v in values), binds
            case ast.IfExp(test=test, body=body, orelse=orelse):
                rows = rf"{self.set(body)} & \text{{if }} {self.set(test)} \\ {self.set(orelse)} & \text{{else}}"
                return rf"\begin{{cases}}{rows}\end{{cases}}", ATOM
            case ast.Call():
                return self._call(node)
            case ast.Subscript(value=value, slice=index):
                return self._subscripted(self.set(value, ATOM), self._index(index)), ATOM
            case ast.Lambda(args=args, body=body):
                names = ", ".join(self.name(a.arg) for a in args.args)
                return rf"{names} \mapsto {self.set(body)}", OR
            case ast.Tuple(elts=items):
                return rf"\left({', '.join(self.set(i) for i in items)}\right)", ATOM
            case ast.List(elts=items):
                return rf"\left[{', '.join(self.set(i) for i in items)}\right]", ATOM
            case ast.Set(elts=items):
                return rf"\left\{{{', '.join(self.set(i) for i in items)}\right\}}", ATOM
            case ast.ListComp(elt=element, generators=[one]) | ast.GeneratorExp(elt=element, generators=[one]):
                return rf"\left[{self.set(element)}\right]_{{{self._range(one)}}}", ATOM
            case _:
                raise ValueError(f"the notation has no {type(node).__name__}: {ast.unparse(node)}")

    def _inline_chain(self, node: ast.Compare) -> str:
        parts = [self.set(node.left, SUM)]
        parts += [f"{RELATIONS[type(op)]} {self.set(c, SUM)}" for op, c in zip(node.ops, node.comparators, strict=True)]
        return " ".join(parts)

    def _binary(self, node: ast.BinOp) -> tuple[str, int]:
        match node.op:
            case ast.Add():
                return f"{self.set(node.left, SUM)} + {self.set(node.right, SUM)}", SUM
            case ast.Sub():
                return f"{self.set(node.left, SUM)} - {self.set(node.right, PRODUCT)}", SUM
            case ast.Mult() | ast.MatMult():
                if _negative(node.left):
                    return f"-{self.set(_without_sign(node), PRODUCT)}", SUM
                left, right = self.set(node.left, PRODUCT), self.set(node.right, PRODUCT)
                crowded = right[:1].isdigit() or right.startswith((r"\frac", r"10^"))
                sign = r" \cdot " if crowded else r"\,"
                return f"{left}{sign}{right}", PRODUCT
            case ast.Div():
                if _negative(node.left):
                    return f"-{self.set(_without_sign(node), PRODUCT)}", SUM
                return rf"\frac{{{self.set(node.left)}}}{{{self.set(node.right)}}}", PRODUCT
            case ast.Pow():
                base, binds = self.node(node.left)
                if (
                    binds < ATOM
                    or (isinstance(node.left, ast.Call) and _big(node.left))
                    or base.endswith(("'", "}^{*}"))
                ):
                    base = _parenthesised(base)
                return f"{{{base}}}^{{{self.set(node.right)}}}", POWER
            case ast.Mod():
                return rf"{self.set(node.left, PRODUCT)} \bmod {self.set(node.right, PRODUCT)}", PRODUCT
            case _:
                raise ValueError(f"the notation has no operator {type(node.op).__name__}")

    def _call(self, node: ast.Call) -> tuple[str, int]:
        function = ast.unparse(node.func)
        if function in self.symbols and not isinstance(node.func, ast.Name):
            return self.symbols[function] + _parenthesised(", ".join(self.set(a) for a in node.args)), ATOM
        if _big(node):
            return self._big_operator(function, node.args[0])
        if special := _SPECIAL.get(function):
            return special(self, node)
        if isinstance(node.func, ast.Call) and ast.unparse(node.func.func) == "D":
            return self._derivative(node.func, node), ATOM
        arguments = [self.set(a) for a in node.args] + [self.set(k.value) for k in node.keywords if k.arg]
        if function in ("log", "exp") and len(arguments) == 1:
            return self._prefixed(FUNCTIONS[function], node.args[0])
        head = FUNCTIONS.get(function) or self.set(node.func, ATOM)
        return head + _parenthesised(self._separated(function, arguments)), ATOM

    def _prefixed(self, head: str, argument: ast.expr) -> tuple[str, int]:
        """log x without parentheses where nothing can be read wrongly."""
        text, binds = self.node(argument)
        plain = head == r"\log" and binds == ATOM and not (isinstance(argument, ast.Call) and _big(argument))
        return (f"{head} {text}", UNARY) if plain else (head + _parenthesised(text), ATOM)

    def _separated(self, function: str, arguments: list[str]) -> str:
        conditioned = len(arguments) == 2 and re.match(rf"({'|'.join(CONDITIONED)})(_|$)", function)
        return (r" \mid " if conditioned else ", ").join(arguments)

    def _big_operator(self, function: str, argument: ast.expr) -> tuple[str, int]:
        assert isinstance(argument, ast.GeneratorExp | ast.ListComp)
        if function in ("all", "any"):
            word = "for all" if function == "all" else "for some"
            where = ",\\ ".join(self._range(g) for g in argument.generators)
            return rf"{self.set(argument.elt)} \quad \text{{{word} }} {where}", COMPARE
        head = "".join(self._under(BIG[function], g) for g in argument.generators)
        return f"{head} {self.set(argument.elt, PRODUCT)}", PRODUCT

    def _under(self, sign: str, one: ast.comprehension) -> str:
        match one:
            case ast.comprehension(iter=ast.Call(func=ast.Name(id="range"), args=args), ifs=[]):
                low = "0" if len(args) == 1 else self.set(args[0])
                return rf"{sign}_{{{self.set(one.target)}={low}}}^{{{self._before(args[-1] if len(args) == 1 else args[1])}}}"
            case _:
                return rf"{sign}_{{{self._range(one)}}}"

    def _range(self, one: ast.comprehension) -> str:
        where = rf"{self.set(one.target)} \in {self.set(one.iter)}"
        return ",\\ ".join([where, *(self.set(c) for c in one.ifs)])

    def _before(self, end: ast.expr) -> str:
        """The last number that a range ending before `end` has."""
        match end:
            case ast.Constant(value=int(n)):
                return str(n - 1)
            case ast.BinOp(left=left, op=ast.Add(), right=ast.Constant(value=1)):
                return self.set(left)
            case _:
                return f"{self.set(end)} - 1"

    def _derivative(self, made: ast.Call, called: ast.Call) -> str:
        function, by = made.args[0], made.args[1:]
        arguments = ", ".join(self.set(a) for a in called.args)
        if not by:
            return f"{self.set(function, ATOM)}'{_parenthesised(arguments)}"
        assert isinstance(by[0], ast.Constant)
        variable = self.name(by[0].value) if isinstance(by[0].value, str) else str(by[0].value + 1)
        return rf"\frac{{\partial {self.set(function, ATOM)}}}{{\partial {variable}}}{_parenthesised(arguments)}"

    def _subscripted(self, base: str, index: str) -> str:
        """With one more subscript: x_{a,i} where it has one."""
        found = re.fullmatch(r"(.*)_(?:\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}|(\w))", base, flags=re.DOTALL)
        return f"{found[1]}_{{{found[2] or found[3]},{index}}}" if found else f"{base}_{{{index}}}"

    def _index(self, index: ast.expr) -> str:
        return ",".join(self.set(i) for i in index.elts) if isinstance(index, ast.Tuple) else self.set(index)

    def name(self, name: str) -> str:
        """π_old, log π, r̄, k_3: what a name means by its parts."""
        if name in self.symbols:
            return self.symbols[name]
        if name in GREEK:
            return GREEK[name]
        if name in FUNCTIONS:
            return FUNCTIONS[name]
        if found := re.fullmatch(r"([A-Za-z]|[a-z]*?(?:" + "|".join(GREEK) + r"))(\d+)", name):
            return f"{{{self.name(found[1])}}}_{{{found[2]}}}"
        head, _, rest = name.partition("_")
        if not rest:
            return name if len(name) == 1 else rf"\mathrm{{{name}}}"
        if head in LEADING and head != "d":
            return LEADING[head] + self.name(rest)
        base, _, last = name.rpartition("_")
        if last in ACCENTS:
            return ACCENTS[last] % self.name(base)
        return self._subscripted(self.name(base), last if len(last) == 1 else GREEK.get(last) or rf"\text{{{last}}}")


def _parenthesised(text: str) -> str:
    """Parentheses that grow only with what is tall."""
    tall = any(
        sign in text for sign in (r"\frac", r"\sum", r"\prod", r"\begin", r"\sqrt", r"\max_", r"\min_", r"\binom")
    )
    return rf"\left({text}\right)" if tall else f"({text})"


def _negative(node: ast.expr) -> bool:
    """Whether a product begins with a minus sign."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div):
        return _negative(node.left)
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)


def _without_sign(node: ast.expr) -> ast.expr:
    """The product without the minus sign that it begins with."""
    if isinstance(node, ast.UnaryOp):
        return node.operand
    assert isinstance(node, ast.BinOp)
    return ast.copy_location(ast.BinOp(_without_sign(node.left), node.op, node.right), node)


def _big(node: ast.Call) -> bool:
    """A sum, product, maximum, … over something."""
    named = isinstance(node.func, ast.Name) and node.func.id in (*BIG, "all", "any")
    return named and len(node.args) == 1 and isinstance(node.args[0], ast.GeneratorExp | ast.ListComp)


def _around(left: str, right: str) -> Callable[[_Setter, ast.Call], tuple[str, int]]:
    return lambda s, node: (rf"\left{left} {', '.join(s.set(a) for a in node.args)} \right{right}", ATOM)


def _between(head: str, sign: str) -> Callable[[_Setter, ast.Call], tuple[str, int]]:
    return lambda s, node: (rf"{head}\left({sign.join(s.set(a) for a in node.args)}\right)", ATOM)


def _expectation(head: str) -> Callable[[_Setter, ast.Call], tuple[str, int]]:
    def made(s: _Setter, node: ast.Call) -> tuple[str, int]:
        law, *functions = node.args
        variables, bodies = [], []
        for f in functions:
            if isinstance(f, ast.Lambda):
                variables.append(", ".join(s.name(a.arg) for a in f.args.args))
                bodies.append(s.set(f.body))
            else:
                bodies.append(s.set(f))
        under = rf"{variables[0]} \sim {s.set(law)}" if variables else s.set(law)
        return rf"{head}_{{{under}}}\left[{', '.join(bodies)}\right]", ATOM

    return made


_SPECIAL: dict[str, Callable[[_Setter, ast.Call], tuple[str, int]]] = {
    "sqrt": lambda s, node: (rf"\sqrt{{{s.set(node.args[0])}}}", ATOM),
    "abs": _around("|", "|"),
    "norm": _around(r"\lVert", r"\rVert"),
    "dot": _around(r"\langle", r"\rangle"),
    "pos": lambda s, node: (rf"\left[{s.set(node.args[0])}\right]_+", ATOM),
    "one": lambda s, node: (rf"\mathbf{{1}}\left[{s.set(node.args[0])}\right]", ATOM),
    "sg": lambda s, node: (rf"\mathrm{{sg}}\left[{s.set(node.args[0])}\right]", ATOM),
    "comb": lambda s, node: (rf"\binom{{{s.set(node.args[0])}}}{{{s.set(node.args[1])}}}", ATOM),
    "factorial": lambda s, node: (f"{s.set(node.args[0], ATOM)}!", ATOM),
    "len": _around("|", "|"),
    "KL": _between(r"\mathrm{KL}", r" \,\|\, "),
    "TV": _between(r"\mathrm{TV}", ", "),
    "H": _between(r"\mathcal{H}", ", "),
    "approx": lambda s, node: (rf"{s.set(node.args[0], SUM)} \approx {s.set(node.args[1], SUM)}", COMPARE),
    "E": _expectation(r"\mathbb{E}"),
    "Var": _expectation(r"\mathrm{Var}"),
    "Cov": _expectation(r"\mathrm{Cov}"),
    "D": lambda s, node: (rf"{s.set(node.args[0], ATOM)}'", ATOM),
    "float": lambda s, node: s.node(node.args[0]),
}


def _constant(value: object) -> str:
    if isinstance(value, float) and ("e" in repr(value) or 0 < abs(value) < 1e-4):
        digits, _, power = f"{value:e}".partition("e")
        digits = digits.rstrip("0").rstrip(".")
        return rf"10^{{{int(power)}}}" if digits == "1" else rf"{digits} \cdot 10^{{{int(power)}}}"
    if isinstance(value, str):
        return rf"\text{{{_escaped(value)}}}"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _escaped(text: str) -> str:
    return re.sub(r"([#%&_{}$])", r"\\\1", text)
