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


class ResNet(eqx.Module):
    """Residual blocks with group norm, and a global average before the head."""

    stem: nn.Conv2d
    norm: nn.GroupNorm
    block: nn.Conv2d
    outer: nn.Linear

    def __call__(self, x):
        h = self.stem(x)
        h = h + self.block(jax.nn.relu(self.norm(h)))
        return self.outer(h.mean((1, 2)))


class UNet(eqx.Module):
    """Down, up by a transposed convolution, and a skip connection."""

    down: nn.Conv2d
    up: nn.ConvTranspose2d
    mix: nn.Conv2d

    def __call__(self, x):
        low = jnp.tanh(self.down(x))
        return self.mix(jnp.concatenate([x, jnp.tanh(self.up(low))]))


class ChannelsLast(eqx.Module):
    """A kernel in the layout (height, width, in, out), with dilations."""

    w: Array
    v: Array

    def __call__(self, x):
        h = jax.lax.conv_general_dilated(
            *(x[None], self.w, (1, 1), [(1, 0), (2, 1)]),
            lhs_dilation=(2, 1),
            rhs_dilation=(1, 2),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return jnp.tanh(h).ravel() @ self.v


class Convolutions(eqx.Module):
    """One or three spatial axes; strides, padding, dilation."""

    first: nn.Conv
    second: nn.Conv

    def __call__(self, x):
        return self.second(jnp.tanh(self.first(x))).ravel()


class BatchOfConvolutions(eqx.Module):
    """A convolution under an inner vmap."""

    layer: nn.Conv1d

    def __call__(self, x):
        return jax.vmap(self.layer)(x).sum((0, 2))


class Transformer(eqx.Module):
    """A block with an embedding that also reads the logits out."""

    table: nn.Embedding
    position: Array
    block: Attention

    def __call__(self, x):
        h = jax.vmap(self.table)(x) + self.position
        h = self.block.attention(h, h, h) + jax.vmap(self.block.mlp)(h)
        return self.table.weight @ h.mean(0)


class Bag(eqx.Module):
    """Rows looked up at once, and one row by itself."""

    table: Array
    single: Array
    outer: nn.Linear

    def __call__(self, x):
        h = self.table[x].mean(0) * self.single[x[0]]
        return self.outer(jnp.tanh(h))


class Heads(eqx.Module):
    """Weights with three axes, contracted over one or two."""

    query: Array
    out: Array

    def __call__(self, x):
        h = jnp.tanh(jnp.einsum("td,hed->the", x, self.query))
        return jnp.einsum("the,heo->o", h, self.out)


class Experts(eqx.Module):
    """A mixture of experts: layers stacked along an axis."""

    gate: nn.Linear
    experts: nn.Linear
    outer: nn.Linear

    def __call__(self, x):
        def one(layer, x):
            return jnp.tanh(layer(x))

        found = eqx.filter_vmap(one, in_axes=(eqx.if_array(0), None))(self.experts, x)
        return self.outer(jax.nn.softmax(self.gate(x)) @ found)


class Transposed(eqx.Module):
    """A weight transposed before it meets data, and a vector of weights."""

    w: Array
    v: Array

    def __call__(self, x):
        return jnp.tanh(x @ self.w.T) @ self.v + x.sum()


class Vmapped(eqx.Module):
    """A stack of layers: weights with a batch axis."""

    layers: nn.Linear

    def __call__(self, x):
        return eqx.filter_vmap(lambda layer: layer(x))(self.layers).sum(0)


class Shifted(eqx.Module):
    """The last product minus data, its bias used twice."""

    layer: nn.Linear

    def __call__(self, x):
        return self.layer(x) - x[:2] * self.layer.bias


class Subtracted(eqx.Module):
    """The last product is subtracted."""

    layer: nn.Linear

    def __call__(self, x):
        return x[:2] - self.layer(x)


class Padded(eqx.Module):
    """Tokens out of range: filled with zeros, or taken as the last."""

    table: Array
    clipped: Array
    single: Array

    def __call__(self, x):
        ids = jnp.where(x > 4, 99, x)
        rows = jnp.take(self.table, ids, axis=0, mode="fill", fill_value=0.0)
        last = self.clipped.at[ids].get(mode="clip")
        return jnp.tanh(rows.sum(0) * last.sum(0)) + self.single[x % 4, 0].sum()


class Permuted(eqx.Module):
    """A last product with its outputs in another order than the leaf's axes."""

    w: Array

    def __call__(self, x):
        return jnp.tensordot(jnp.transpose(self.w, (1, 0, 2)), x, 1)


class Columnwise(eqx.Module):
    """The last product, or its bias, read in the order of columns."""

    layer: nn.Linear
    of_bias: bool = eqx.field(static=True)

    def __call__(self, x):
        if self.of_bias:
            bias = self.layer.bias.reshape(2, 3).ravel(order="F")
            return self.layer.weight @ x + bias
        return self.layer(x).reshape(2, 3).ravel(order="F")


class Widths(eqx.Module):
    """One array contracted over one axis, and over two."""

    w: Array

    def __call__(self, x):
        one = jnp.tensordot(self.w, x, 1)
        return jnp.tanh(one).sum(1) + jnp.tensordot(self.w, jnp.outer(x[:3], x), 2)


class SideBySide(eqx.Module):
    """Two last layers side by side."""

    hidden: nn.Linear
    mean: nn.Linear
    scale: nn.Linear

    def __call__(self, x):
        h = jnp.tanh(self.hidden(x))
        return jnp.concatenate([self.mean(h), self.scale(h)])


class Stateful(eqx.Module):
    """Batch norm with its running statistics, in inference mode."""

    first: nn.Linear
    norm: nn.BatchNorm
    outer: nn.Linear
    state: nn.State

    def __call__(self, x):
        h, _ = self.norm(self.first(x), self.state)
        return self.outer(jax.nn.relu(h))


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
    resnet = ResNet(
        nn.Conv2d(1, 4, 3, padding=1, key=KEY),
        nn.GroupNorm(2, 4),
        nn.Conv2d(4, 4, 3, padding=1, use_bias=False, key=KEY),
        _linear(4, 3),
    )
    unet = UNet(
        nn.Conv2d(1, 2, 2, stride=2, key=KEY),
        nn.ConvTranspose2d(2, 2, 2, stride=2, key=KEY),
        nn.Conv2d(3, 1, 1, key=KEY),
    )
    line = Convolutions(
        nn.Conv1d(2, 4, 3, padding=2, dilation=2, key=KEY),
        nn.Conv1d(4, 2, 3, stride=2, groups=2, key=KEY),
    )
    cube = Convolutions(
        nn.Conv3d(1, 2, 2, key=KEY), nn.Conv3d(2, 1, 2, padding=1, stride=2, key=KEY)
    )
    last = ChannelsLast(normal(2, 2, 3, 2, number=12), normal(84, 2, number=13))
    transformer = Transformer(
        nn.Embedding(7, 4, key=KEY), normal(3, 4, number=14), attention
    )
    bag = Bag(normal(7, 4, number=15), normal(7, 4, number=16), _linear(4, 2))
    heads = Heads(normal(2, 3, 4, number=17), normal(2, 3, 2, number=18))
    stack = eqx.filter_vmap(lambda key: nn.Linear(4, 5, key=key))(
        jax.random.split(KEY, 3)
    )
    experts = Experts(_linear(4, 3), stack, _linear(5, 2))
    norm, state = eqx.nn.make_with_state(nn.BatchNorm)(6, axis_name="batch", mode="ema")
    batch = Stateful(_linear(4, 6), nn.inference_mode(norm), _linear(6, 2), state)
    return {
        "mlp": (mlp, x, "ODODLL"),
        "scalar": (nn.MLP(4, "scalar", 6, 1, jnp.tanh, key=KEY), x, "ODLL"),
        "sequential": (sequential, x, "ODL"),
        "inner vmap": (Shared(_linear(4, 6), _linear(6, 2)), seq, "ODLL"),
        "tied": (Tied(normal(6, 4)), x, "D"),
        "right": (right, x, "OLD"),
        "twice": (Twice(_linear(4, 3)), x, "OD"),
        "jitted": (Jitted(_linear(4, 6), _linear(6, 2)), x, "ODLL"),
        "gru": (Recurrent(nn.GRUCell(4, 3, key=KEY), _linear(3, 2)), seq, "DDDDLL"),
        "custom forward": (CustomForward(w, b), x, "DD"),
        "custom reverse": (CustomReverse(w, b), x, "DD"),
        "checkpoint": (Checkpointed(smooth), x, "DDDD"),
        "energy": (Energy(smooth), x, None),
        "positive": (Positive(w), x, "D"),
        "branch": (Branch(_linear(4, 2)), x, "DD"),
        "constant": (Constant(b, w), x, "DD"),
        "two": (square, x, "DD"),
        "axes": (Axes(w), normal(5, 2, 3, 4, number=11), "O"),
        "embedding": (Embedded(nn.Embedding(7, 4, key=KEY)), tokens, "D"),
        "bag": (bag, tokens, "RRLL"),
        "attention": (attention, seq, None),
        "transformer": (transformer, tokens, None),
        "heads": (heads, normal(5, 3, 4, number=19), "OL"),
        "experts": (experts, x, "ODODLL"),
        "stacked": (Vmapped(stack), x, "OD"),
        "transposed": (Transposed(normal(6, 4), normal(6, number=6)), x, "OL"),
        "lenet": (lenet, image, "ODODLL"),
        "resnet": (resnet, image, "ODDDOLL"),
        "unet": (unet, image, "ODODOD"),
        "conv 1d": (line, normal(5, 2, 8, number=22), "ODDD"),
        "conv 3d": (cube, normal(5, 1, 3, 3, 3, number=23), "ODOD"),
        "channels last": (last, normal(5, 4, 5, 3, number=24), None),
        "vmapped conv": (
            BatchOfConvolutions(nn.Conv1d(2, 3, 2, key=KEY)),
            normal(5, 3, 2, 4, number=25),
            "OD",
        ),
        "weight norm": (nn.WeightNorm(_linear(4, 2)), x, "DDD"),
        "norms": (norms, x, None),
        "batch norm": (batch, x, "ODDDLL"),
        "prelu": (Nested(_linear(4, 6), nn.PReLU(), _linear(6, 2)), x, "ODDLL"),
        "dropout": (nn.inference_mode(dropout), x, "ODLL"),
        "padded": (
            Padded(normal(7, 4), normal(7, 4, number=27), normal(7, 1, number=28)),
            tokens,
            "RRD",
        ),
        "permuted": (Permuted(normal(2, 3, 4)), x, "O"),
        "widths": (Widths(normal(2, 3, 4)), x, "D"),
        "two heads": (
            SideBySide(_linear(4, 5), _linear(5, 1), _linear(5, 1)),
            x,
            "ODODOD",
        ),
        "shifted": (Shifted(_linear(4, 2)), x, "LD"),
        "columnwise": (Columnwise(_linear(4, 6), of_bias=False), x, "OD"),
        "columnwise bias": (Columnwise(_linear(4, 6), of_bias=True), x, "LD"),
        "subtracted": (Subtracted(_linear(4, 2)), x, "OD"),
    }


#: name -> (network, inputs, kinds of the leaves' factors: O outer, R rows of a table,
#: L last layer, D dense).
NETWORKS = _networks()
