"""An independent judge of the weight loaders: Python's safetensors, gguf, tokenizers and transformers.

Reads one JSON object from standard input, {"task": ..., ...}, and writes the answer as JSON.
"""

import base64
import hashlib
import json
import os
import sys

import numpy as np


def dequantize(blocks):
    """Float32 bytes of blocks [{type, rows, bytes}], by the gguf package."""
    import gguf

    answers = []
    for block in blocks:
        quantised = np.frombuffer(base64.b64decode(block["bytes"]), dtype=np.uint8).reshape(block["rows"], -1)
        numbers = gguf.dequantize(quantised, gguf.GGMLQuantizationType(block["type"]))
        answers.append(base64.b64encode(np.ascontiguousarray(numbers, dtype="<f4").tobytes()).decode())
    return answers


def read_safetensors(path):
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        return {
            "metadata": file.metadata(),
            "tensors": {
                name: {"dtype": str(tensor.dtype), "shape": list(tensor.shape), "numbers": tensor.flatten().tolist()}
                for name, tensor in tensors.items()
            },
        }


def write_safetensors(path):
    """Writes one tensor of each type; returns their float32 numbers."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(1)
    numbers = torch.cat([torch.randn(94) * 10.0 ** torch.arange(-47, 47).clamp(-38, 38), torch.tensor([0.0, -0.0])])
    tensors = {str(dtype): numbers.reshape(8, 12).to(dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)}
    save_file(tensors, path, metadata={"format": "pt"})
    # JSON has no infinity, to which float16 overflows.
    return {name: [str(number) for number in tensor.float().flatten().tolist()] for name, tensor in tensors.items()}


def gguf_model(path):
    """SHA-256 of every float32 weight under Hugging Face's names, as transformers reads the file."""
    import torch
    from transformers import AutoModelForCausalLM

    folder, file = os.path.split(path)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    return {
        name: hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
        for name, tensor in model.state_dict().items()
    }


def gguf_tokenizer(path, texts):
    """Ids of texts, by the tokenizer that transformers makes of the file."""
    from transformers import AutoTokenizer

    folder, file = os.path.split(path)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    return [tokenizer.encode(text, add_special_tokens=False) for text in texts]


def tokenizer(json_text, texts):
    """Ids of texts and the texts back, by a tokenizer.json."""
    from tokenizers import Tokenizer

    made = Tokenizer.from_str(json_text)
    encoded = [made.encode(text, add_special_tokens=False).ids for text in texts]
    return {"ids": encoded, "texts": [made.decode(ids) for ids in encoded]}


TASKS = {
    task.__name__: task
    for task in (dequantize, read_safetensors, write_safetensors, gguf_model, gguf_tokenizer, tokenizer)
}

if __name__ == "__main__":
    call = json.load(sys.stdin)
    json.dump(TASKS[call.pop("task")](**call), sys.stdout)
