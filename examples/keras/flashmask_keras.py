"""Models between Keras 3 and tfjs-flashmask/layers, in the folders that tfjs saves: model.json and its weights.

    model = load("my-model")  # saved by model.save('file://my-model') or model.save('downloads://my-model') of tfjs
    save(model, "back")       # for tf.loadLayersModel(fromKeras('file://back/model.json'))

Keras's attention has no document ids, bounds, builders of masks and rotary positions: models with them are refused.
"""

import json
import pathlib

import keras
import numpy as np

SHARED = ("kernel_initializer", "bias_initializer", "kernel_regularizer", "bias_regularizer")
SHARED += ("kernel_constraint", "bias_constraint")
OWN = ("value_dim", "output_shape", "num_key_value_heads", "use_causal_mask", "mask", "rope_max_wavelength")
OWN += ("precision",)  # Keras multiplies as its dtype policy says.
INNER = "keras_attention"  # tfjs has the weights without this layer between.


class FlashMaskMultiHeadAttention(keras.layers.Layer):
    """Keras's own attention, with the arguments and inputs that the layer of tfjs-flashmask has."""

    def __init__(self, num_heads, key_dim, **config):
        options = {name: config.pop(name) for name in (*SHARED, "dropout", "use_bias", "seed") if name in config}
        own = {name: config.pop(name, None) for name in OWN}
        value_dim, output_shape, groups, use_causal_mask, mask, rope, _precision = own.values()
        if mask is not None or rope is not None:
            raise ValueError("Keras has no counterpart of the arguments mask and rope_max_wavelength.")
        super().__init__(**config)
        self.arguments = {"num_heads": num_heads, "key_dim": key_dim, **options, **own}
        options["name"] = INNER
        self.supports_masking = True
        self.use_causal_mask = bool(use_causal_mask)
        self.channels = output_shape
        if groups in (None, num_heads):
            sizes = {"value_dim": value_dim, "output_shape": output_shape}
            self.attention = keras.layers.MultiHeadAttention(num_heads, key_dim, **sizes, **options)
        elif value_dim in (None, key_dim) and output_shape is None:
            self.attention = keras.layers.GroupQueryAttention(key_dim, num_heads, groups, **options)
        else:
            raise ValueError("Grouped heads of Keras have one size, and the channels of their input.")

    def get_config(self):
        return {**super().get_config(), **self.arguments}

    def build(self, shapes):
        query, *others = shapes if isinstance(shapes[0], (list, tuple)) else [shapes]
        self.attention.build(query, *(others or [query]))

    def call(self, inputs):
        query, *others = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        if any(len(x.shape) != 3 for x in others):
            raise ValueError("Keras has no counterpart of document ids and bounds.")
        return self.attention(query, *(others or [query]), use_causal_mask=self.use_causal_mask)

    def compute_output_shape(self, shapes):
        query = shapes[0] if isinstance(shapes[0], (list, tuple)) else shapes
        return (*query[:-1], self.channels or query[-1])


def load(folder):
    """The model of tfjs in a folder, as a model of Keras."""
    folder = pathlib.Path(folder)
    description = json.loads((folder / "model.json").read_text())
    topology = description["modelTopology"]
    config = topology.get("model_config", topology)["config"]
    classes = {"FlashMaskMultiHeadAttention": FlashMaskMultiHeadAttention}
    model = keras.Model.from_config(config, custom_objects=classes)
    weights = {}
    for group in description["weightsManifest"]:
        data = b"".join((folder / path).read_bytes() for path in group["paths"])
        for weight in group["weights"]:
            count = int(np.prod(weight["shape"]))
            array = np.frombuffer(data, weight["dtype"], count).reshape(weight["shape"])
            data = data[array.nbytes :]
            weights.setdefault(weight["name"].split("/")[0], []).append(array)
    for layer in model.layers:
        layer.set_weights(weights.get(layer.name, []))
    return model


def save(model, folder):
    """Writes a model of Keras as tfjs does. `fromKeras` makes tfjs read it."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = [np.asarray(weight.numpy()) for weight in model.weights]
    manifest = [
        {"name": weight.path.replace(f"/{INNER}/", "/"), "shape": list(array.shape), "dtype": str(array.dtype)}
        for weight, array in zip(model.weights, arrays)
    ]
    description = {
        "format": "layers-model",
        "generatedBy": f"keras v{keras.__version__}",
        "modelTopology": {"model_config": json.loads(model.to_json())},
        "weightsManifest": [{"paths": ["weights.bin"], "weights": manifest}],
    }
    (folder / "weights.bin").write_bytes(b"".join(array.tobytes() for array in arrays))
    (folder / "model.json").write_text(json.dumps(description))
