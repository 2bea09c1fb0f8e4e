"""Keras judges the layers of tfjs: argument 1 is a folder.

Writes models of Keras below `keras/`, each with the file numbers.json: inputs, weights of the loss, output, and the
gradients of the trainable weights. Loads the models that tfjs saved below `tfjs/`, and writes their output of the
inputs in inputs.json to output.json, and the models themselves to back/.
"""

import json
import os
import pathlib
import sys

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np

root = pathlib.Path(sys.argv[1])
sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "examples" / "keras"))
from flashmask_keras import load, save  # noqa: E402

L = keras.layers
LENGTH, VOCABULARY, CHANNELS = 9, 11, 12
PADDED = [[3, 5, 1, 2, 7, 4, 9, 8, 6], [2, 2, 9, 1, 10, 0, 0, 0, 0]]


def tokens(name, mask_zero=True):
    ids = keras.Input((LENGTH,), dtype="int32", name=name)
    return ids, L.Embedding(VOCABULARY, CHANNELS, mask_zero=mask_zero, embeddings_initializer="glorot_normal")(ids)


def self_attention(layer, **call):
    ids, x = tokens("ids")
    y = layer(x, x, **call)
    return keras.Model(ids, L.Dense(5, activation="gelu")(L.Add()([L.LayerNormalization()(x), y])))


def cross_attention(layer):
    ids, x = tokens("ids")
    source, value = tokens("source")
    return keras.Model([ids, source], layer(query=x, value=value, key=value))


def one_input(layer):
    x = keras.Input((LENGTH, CHANNELS), name="x")
    return keras.Model(x, L.Dense(3)(layer(x, x, x, use_causal_mask=True)))


MODELS = {
    "multi_head": lambda: self_attention(L.MultiHeadAttention(3, 8)),
    "multi_head_causal": lambda: self_attention(L.MultiHeadAttention(2, 8), use_causal_mask=True),
    "multi_head_window": lambda: self_attention(L.MultiHeadAttention(2, 8, sliding_window=3)),
    "multi_head_cross": lambda: cross_attention(L.MultiHeadAttention(2, 8, output_shape=7)),
    "grouped": lambda: self_attention(L.GroupQueryAttention(8, 4, 2)),
    "grouped_causal_window": lambda: self_attention(
        L.GroupQueryAttention(8, 4, 1, use_bias=False, sliding_window=4), use_causal_mask=True
    ),
    "grouped_cross": lambda: cross_attention(L.GroupQueryAttention(8, 4, 2)),
    "one_input": lambda: one_input(L.MultiHeadAttention(2, 8, bias_initializer="glorot_normal")),
}


def flat(array):
    return np.asarray(array, np.float64).flatten().tolist()


def inputs_of(model, random):
    for x in model.inputs:
        ids = np.array(PADDED if x.name == "ids" else PADDED[::-1], np.int32)
        yield ids if x.dtype == "int32" else random.normal(size=(2, LENGTH, CHANNELS)).astype(np.float32)


def judge(model, random):
    inputs = list(inputs_of(model, random))
    for weight in model.trainable_variables:
        if "bias" in weight.path:
            weight.assign(random.normal(size=weight.shape) * 0.3)
    output = np.asarray(model(inputs))
    factors = random.normal(size=output.shape).astype(np.float32)
    if model.inputs[0].name == "ids":
        factors *= np.array(PADDED)[:, :, None] > 0  # Keras's padding sees all keys alike, ours none.

    def loss(trainable):
        out, _ = model.stateless_call(trainable, model.non_trainable_variables, inputs)
        return (out * factors).sum()

    gradients = jax.grad(loss)([variable.value for variable in model.trainable_variables])
    names = [variable.path for variable in model.trainable_variables]
    return {
        "inputs": [x.tolist() for x in inputs],
        "factors": factors.tolist(),
        "output": flat(output),
        "gradients": {name: flat(gradient) for name, gradient in zip(names, gradients)},
    }


if __name__ == "__main__":
    keras.utils.set_random_seed(1)
    random = np.random.default_rng(1)
    for name, build in MODELS.items():
        model = build()
        numbers = judge(model, random)
        save(model, root / "keras" / name)
        (root / "keras" / name / "numbers.json").write_text(json.dumps(numbers))
    for folder in (root / "tfjs").iterdir():
        inputs = [np.array(x, dtype) for x, dtype in json.loads((folder / "inputs.json").read_text())]
        model = load(folder)
        (folder / "output.json").write_text(json.dumps(flat(model(inputs))))
        save(model, folder / "back")
    print(f"Keras {keras.__version__} on JAX {jax.__version__}", file=sys.stderr)
