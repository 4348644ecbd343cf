"""Recurrent layers in an engine's form, with the norm before them and the product after."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from rofo.export.graph.types import Form, cast, frozen, product


def staged_norm(x: Tensor, *axes: int, eps: float) -> Tensor:
    """x without its mean over `axes` and divided by its deviation, both taken axis by axis.

    One sum over ten million float32 numbers costs ONNX Runtime 50 dB; a sum of sums does not.
    """
    x = x - staged_mean(x, *axes)
    return x * torch.rsqrt(staged_mean(x * x, *axes) + eps)


def staged_mean(x: Tensor, *axes: int) -> Tensor:
    """The mean over `axes`, one after the other, which stay as axes of 1."""
    for axis in axes:
        x = x.mean(dim=axis, keepdim=True)
    return x


class Linear(nn.Module):
    """x -> x @ weight.T + bias, on the last axis; operands of the product in the form's type."""

    def __init__(self, weight: Tensor, bias: Tensor | None, form: Form) -> None:
        super().__init__()
        self.weight = frozen(weight.T.contiguous(), form.product)
        self.bias = None if bias is None else frozen(bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., inputs) -> (..., outputs), float32."""
        x = cast(product(x, self.weight), torch.float32)
        return x if self.bias is None else x + self.bias


class Recurrent(nn.Module):
    """A bidirectional LSTM or GRU layer and the product after it, along the first axis.

    `scale` and `shift` of the norm before it are folded into its weights.
    """

    def __init__(self, layer: nn.RNNBase, norm: nn.GroupNorm, project: nn.Linear, form: Form) -> None:
        super().__init__()
        weights: dict[str, Tensor] = dict(layer.named_parameters())
        for end in ends():
            weight, bias = weights[f"weight_ih{end}"], weights[f"bias_ih{end}"]
            weights[f"weight_ih{end}"], weights[f"bias_ih{end}"] = folded(
                weight, bias, norm.weight, norm.bias
            )
        kind = nn.LSTM if isinstance(layer, nn.LSTM) else nn.GRU
        self.layer: nn.Module
        if form.engine == "tensorrt":
            self.layer = Loop(kind, weights, form)
        else:
            self.layer = kind(layer.input_size, layer.hidden_size, bidirectional=True)
            self.layer.load_state_dict(weights)
            self.layer.requires_grad_(False)
        self.project = Linear(project.weight, project.bias, form)

    def forward(self, x: Tensor) -> Tensor:
        """x: (steps, sequences, features), normed -> the same shape, float32."""
        found, _ = self.layer(x)
        return self.project(found)


Pair = tuple[Tensor, Tensor]


def ends(layer: int = 0) -> tuple[str, str]:
    """What the names of the weights of a layer's two directions end in."""
    return f"_l{layer}", f"_l{layer}_reverse"


class Loop(nn.Module):
    """Both directions of an LSTM or GRU layer in one loop, each step one product of input and state.

    Of the ONNX operators TensorRT-RTX 1.7 makes four kernels a step (LSTM): a product of the input, one of
    the state, a gathering of both directions' input, the gates. Of this it makes two, for the gathering is
    done with the gates of the step before. To take the input's products before the loop gives two as well,
    but stores them: 350 MB there and back for a layer of a BSRNN. What is kept from step to step, an LSTM's
    cell or a GRU's state, is float32; what goes into the product has the form's type.
    """

    def __init__(
        self, kind: type[nn.RNNBase], weights: Mapping[str, Tensor], form: Form, layer: int = 0
    ) -> None:
        """`weights` are those of PyTorch's module, of several layers perhaps, under their names there."""
        super().__init__()
        self.cell = _lstm if kind is nn.LSTM else _gru
        stack = _lstm_weights if kind is nn.LSTM else _gru_weights
        matrices, biases = zip(
            *(stack(*(weights[f"{name}{end}"] for name in _NAMES)) for end in ends(layer)), strict=True
        )
        self.weight = frozen(torch.stack(matrices), form.product)
        self.bias = frozen(torch.stack(biases)[:, None])

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """x: (steps, sequences, features) -> (steps, sequences, both directions' states), float32."""
        x = cast(x, self.weight.dtype)
        inputs = torch.stack((x, x.flip(0)), dim=1)
        zeros = self.bias.new_zeros(2, x.shape[1], self.bias.shape[2] // 4)
        start = [cast(zeros, x.dtype), zeros.clone()]
        weights = (self.weight, self.bias)
        if torch.compiler.is_exporting():
            *_, found = torch.ops.higher_order.scan(self._step(), start, [inputs], weights)
        else:
            found = _scanned(self._step(), start, inputs, weights)
        return cast(torch.cat((found[:, 0], found[:, 1].flip(0)), dim=2), torch.float32), None

    def _step(self) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], list[Tensor]]:
        cell = self.cell

        def step(hidden: Tensor, kept: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> list[Tensor]:
            """One step, all (2, sequences, ...): what goes into the next one, and what is put out."""
            gates = cast(product(torch.cat((x, hidden), dim=2), weight), torch.float32) + bias
            hidden, kept = cell(gates, kept)
            hidden = cast(hidden, weight.dtype)
            return [hidden, kept.clone(), hidden.clone()]  # a scan's results may not be one another

        return step


class Loops(nn.Module):
    """A bidirectional LSTM of several layers that takes and gives (sequences, steps, features)."""

    def __init__(self, lstm: nn.LSTM, form: Form) -> None:
        super().__init__()
        weights: dict[str, Tensor] = dict(lstm.named_parameters())
        self.layers = nn.ModuleList(Loop(nn.LSTM, weights, form, i) for i in range(lstm.num_layers))

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """x: (sequences, steps, inputs) -> (sequences, steps, both directions' states), float32."""
        x = x.transpose(0, 1)
        for layer in self.layers:
            x, _ = layer(x)
        return x.transpose(0, 1), None


def _scanned(
    step: Callable[..., list[Tensor]], state: list[Tensor], inputs: Tensor, weights: tuple[Tensor, ...]
) -> Tensor:
    found = []
    for x in inputs:
        *state, put_out = step(*state, x, *weights)
        found.append(put_out)
    return torch.stack(found)


_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def _lstm(gates: Tensor, cell: Tensor) -> Pair:
    i, f, g, o = gates.chunk(4, dim=2)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def _lstm_weights(inputs: Tensor, states: Tensor, bias: Tensor, state_bias: Tensor) -> Pair:
    return torch.cat((inputs, states), dim=1).T, bias + state_bias


def _gru(gates: Tensor, state: Tensor) -> Pair:
    r, z, of_input, of_state = gates.chunk(4, dim=2)
    z, new = z.sigmoid(), (of_input + r.sigmoid() * of_state).tanh()
    state = new + z * (state - new)
    return state, state


def _gru_weights(inputs: Tensor, states: Tensor, bias: Tensor, state_bias: Tensor) -> Pair:
    """The last gate is a sum of two products of which only one is gated: four columns of three."""
    (r_z, new), (state_r_z, state_new) = (w.split((2 * len(w) // 3, len(w) // 3)) for w in (inputs, states))
    rows = (
        torch.cat((r_z, state_r_z), dim=1),
        torch.cat((new, torch.zeros_like(state_new)), dim=1),
        torch.cat((torch.zeros_like(new), state_new), dim=1),
    )
    size = len(new)
    both = bias[: 2 * size] + state_bias[: 2 * size]
    return torch.cat(rows).T, torch.cat((both, bias[2 * size :], state_bias[2 * size :]))


def folded(weight: Tensor, bias: Tensor, scale: Tensor | None, shift: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weight (outputs, inputs) and bias of a product whose input is scaled and shifted no more before it."""
    if scale is None or shift is None:
        return weight, bias
    exact = weight.double()
    return (exact * scale.double()).float(), (bias.double() + exact @ shift.double()).float()
