"""Runs glassllm's own tokenizer, forward pass, gradients and generation: reads a request as JSON, answers in JSON.

The first argument is glassllm's wheel, from which Python imports directly.
"""

import json
import sys

sys.path.insert(0, sys.argv[1])

import numpy as np
from glassllm import load_pretrained
from glassllm.tokenizer import Tokenizer

request = json.load(sys.stdin)
model, tokenizer = load_pretrained("en")
for parameter in model.parameters():
    parameter.data = parameter.data.astype(np.float64)
for block in model.blocks:
    # The same angles in float64; glassllm rounds its table to float32.
    from glassllm.nn import rope_angles

    block.attn.cos, block.attn.sin = rope_angles(block.attn.d_k, model.cfg.max_len, model.cfg.rope_base)


def logits(ids):
    return model.forward(ids).data[0].tolist()


def loss_and_gradients(ids, targets):
    for parameter in model.parameters():
        parameter.grad = None
    loss = model.loss(ids, targets)
    loss.backward()
    gradients = {name: p.grad.ravel().tolist() for name, p in model.named_parameters().items()}
    return {"loss": float(loss.data), "gradients": gradients}


def learn(text, vocab_size):
    learned = Tokenizer.train(text, vocab_size)
    return {"alphabet": learned.alphabet, "merges": learned.merges}


answer = {
    "encoded": [tokenizer.encode(text) for text in request.get("texts", [])],
    "decoded": [tokenizer.decode(ids) for ids in request.get("ids", [])],
    "logits": [logits(ids) for ids in request.get("documents", [])],
    "losses": [loss_and_gradients(*pair) for pair in request.get("losses", [])],
    "generated": [
        [step.token for step in model.generate(ids, n, greedy=True)] for ids, n in request.get("generate", [])
    ],
    "learned": [learn(text, size) for text, size in request.get("learn", [])],
}
json.dump(answer, sys.stdout)
