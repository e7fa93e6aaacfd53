"""One table of networks: a new kind of layer joins by one row."""

import equinox as eqx
import jax
import jax.numpy as jnp
from equinox import nn
from jaxtyping import Array


KEY = jax.random.key(7)


class Shared(eqx.Module):
    """A layer applied at each of T positions by an inner vmap."""

    inner: nn.Linear
    outer: nn.Linear

    def __call__(self, x):
        return self.outer(jnp.tanh(jax.vmap(self.inner)(x)).mean(0))


class Tied(eqx.Module):
    """One matrix used as itself and transposed."""

    w: Array

    def __call__(self, x):
        return self.w.T @ jnp.tanh(self.w @ x)


class Right(eqx.Module):
    """Weights in (in, out) layout, used twice with a tie."""

    w: Array
    v: Array
    b: Array

    def __call__(self, x):
        return jnp.tanh(x @ self.w + self.b) @ self.v


class Twice(eqx.Module):
    """One layer applied twice: the cross terms add."""

    layer: nn.Linear

    def __call__(self, x):
        return self.layer(x) + self.layer(2 * x) - self.layer.bias * self.layer.bias


class Jitted(eqx.Module):
    inner: nn.Linear
    outer: nn.Linear

    def __call__(self, x):
        h = eqx.filter_jit(lambda layer, x: jnp.tanh(layer(x)))(self.inner, x)
        return self.outer(h)


class Recurrent(eqx.Module):
    cell: nn.GRUCell
    outer: nn.Linear

    def __call__(self, x):
        def step(h, one):
            return self.cell(one, h), None

        return self.outer(jax.lax.scan(step, jnp.zeros(3, x.dtype), x)[0])


class CustomForward(eqx.Module):
    """A matrix product inside a custom derivative rule."""

    w: Array
    b: Array

    def __call__(self, x):
        @jax.custom_jvp
        def product(w, x):
            return w @ x

        @product.defjvp
        def _(primals, tangents):
            (w, x), (dw, dx) = primals, tangents
            return w @ x, dw @ x + w @ dx

        return jnp.tanh(product(self.w, x)) + self.b


class CustomReverse(eqx.Module):
    w: Array
    b: Array

    def __call__(self, x):
        @jax.custom_vjp
        def product(w, x):
            return w @ x

        product.defvjp(
            lambda w, x: (w @ x, (w, x)),
            lambda kept, g: (jnp.outer(g, kept[1]), kept[0].T @ g),
        )
        return jnp.tanh(product(self.w, x)) + self.b


class Checkpointed(eqx.Module):
    inner: nn.MLP

    def __call__(self, x):
        return eqx.filter_checkpoint(self.inner)(x)


class Energy(eqx.Module):
    """The output is a gradient: each weight is met on the way back too."""

    inner: nn.MLP

    def __call__(self, x):
        return jax.grad(lambda x: self.inner(x)[0])(x)


class Positive(eqx.Module):
    """Parameters through elementwise functions before they meet data."""

    w: Array

    def __call__(self, x):
        return jax.nn.softplus(self.w) @ x + jax.nn.relu(self.w) @ x


class Branch(eqx.Module):
    layer: nn.Linear

    def __call__(self, x):
        def one(x):
            return self.layer(x)

        def other(x):
            return 2 * self.layer(x)

        return jax.lax.cond(x[0] > 0, one, other, x)


class Constant(eqx.Module):
    """An output that does not depend on data, and a parameter that is not used."""

    b: Array
    unused: Array

    def __call__(self, x):
        return self.b


class Two(eqx.Module):
    """Parameters meet each other before they meet data."""

    a: Array
    b: Array

    def __call__(self, x):
        return (self.a + self.b) @ x + self.a @ self.b @ x


class Axes(eqx.Module):
    """Contractions over several positions, the weight left and right."""

    w: Array

    def __call__(self, x):
        one = jnp.einsum("oi,abi->aob", self.w, x).sum((0, 2))
        return one + jnp.einsum("iab,oi->abo", x.transpose(2, 0, 1), self.w).sum((0, 1))


class Embedded(eqx.Module):
    table: nn.Embedding

    def __call__(self, x):
        return self.table.weight @ jnp.tanh(jax.vmap(self.table)(x).mean(0))


class Attention(eqx.Module):
    attention: nn.MultiheadAttention
    norm: nn.LayerNorm
    mlp: nn.MLP

    def __call__(self, x):
        h = jax.vmap(self.norm)(x)
        h = x + self.attention(h, h, h)
        return (h + jax.vmap(self.mlp)(h)).sum(0)[:2]


class LeNet(eqx.Module):
    first: nn.Conv2d
    second: nn.Conv2d
    outer: nn.Linear

    def __call__(self, x):
        h = nn.MaxPool2d(2, 2)(jax.nn.relu(self.first(x)))
        return self.outer(jax.nn.relu(self.second(h)).ravel())


class Nested(eqx.Module):
    inner: nn.Linear
    act: nn.PReLU
    outer: nn.Linear

    def __call__(self, x):
        return self.outer(self.act(self.inner(x)))


def normal(*shape, number=0):
    return jax.random.normal(jax.random.fold_in(KEY, number), shape)


def _linear(into, out, **options):
    return nn.Linear(into, out, key=KEY, **options)


def _networks():
    x, seq = normal(5, 4, number=1), normal(5, 3, 4, number=2)
    tokens = jax.random.randint(KEY, (5, 3), 0, 7)
    image = normal(5, 1, 6, 6, number=3)
    w, b = normal(3, 4, number=4), normal(3, number=5)
    mlp = nn.MLP(4, 2, 6, 2, key=KEY)
    smooth = nn.MLP(4, 1, 5, 1, jnp.tanh, key=KEY)
    lenet = LeNet(
        nn.Conv2d(1, 2, 3, key=KEY),
        nn.Conv2d(2, 3, 2, stride=2, key=KEY),
        _linear(3, 2),
    )
    attention = Attention(
        nn.MultiheadAttention(2, 4, key=KEY),
        nn.LayerNorm(4),
        nn.MLP(4, 4, 6, 1, key=KEY),
    )
    dropout = nn.Sequential([_linear(4, 6), nn.Dropout(0.5), _linear(6, 2)])
    norms = nn.Sequential([_linear(4, 3), nn.LayerNorm(3), nn.RMSNorm(3)])
    sequential = nn.Sequential(
        [_linear(4, 6), nn.Lambda(jax.nn.silu), _linear(6, 3, use_bias=False)]
    )
    right = Right(normal(4, 6, number=6), normal(6, 2, number=7), normal(6, number=8))
    square = Two(normal(4, 4, number=9), normal(4, 4, number=10))
    return {
        "mlp": (mlp, x, "ODODOD"),
        "scalar": (nn.MLP(4, "scalar", 6, 1, jnp.tanh, key=KEY), x, "ODOD"),
        "sequential": (sequential, x, "ODO"),
        "inner vmap": (Shared(_linear(4, 6), _linear(6, 2)), seq, "ODOD"),
        "tied": (Tied(normal(6, 4)), x, "D"),
        "right": (right, x, "OOD"),
        "twice": (Twice(_linear(4, 3)), x, "DD"),
        "jitted": (Jitted(_linear(4, 6), _linear(6, 2)), x, "ODOD"),
        "gru": (Recurrent(nn.GRUCell(4, 3, key=KEY), _linear(3, 2)), seq, "DDDDOD"),
        "custom forward": (CustomForward(w, b), x, "DD"),
        "custom reverse": (CustomReverse(w, b), x, "DD"),
        "checkpoint": (Checkpointed(smooth), x, "DDDD"),
        "energy": (Energy(smooth), x, "DDDD"),
        "positive": (Positive(w), x, "D"),
        "branch": (Branch(_linear(4, 2)), x, "DD"),
        "constant": (Constant(b, w), x, "DD"),
        "two": (square, x, "DD"),
        "axes": (Axes(w), normal(5, 2, 3, 4, number=11), "D"),
        "embedding": (Embedded(nn.Embedding(7, 4, key=KEY)), tokens, "D"),
        "attention": (attention, seq, None),
        "lenet": (lenet, image, "DDDDOD"),
        "weight norm": (nn.WeightNorm(_linear(4, 2)), x, "DDD"),
        "norms": (norms, x, None),
        "prelu": (Nested(_linear(4, 6), nn.PReLU(), _linear(6, 2)), x, "ODDOD"),
        "dropout": (nn.inference_mode(dropout), x, "ODOD"),
    }


#: name -> (network, inputs, kinds of the leaves' factors: O outer, D dense).
NETWORKS = _networks()
