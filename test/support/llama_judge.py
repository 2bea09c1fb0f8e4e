"""transformers as the judge of examples/finetune/model: logits, gradients and generated tokens of the Llama family.

python llama_judge.py --write   writes test/fixtures/llama_*.json: tiny models whose weights are a formula
python llama_judge.py           reads a request as JSON, answers in JSON; see answer() below
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, LogitsProcessorList
from transformers.generation import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

FIXTURES = Path(__file__).parent / "fixtures"
BATCH, LENGTH, VOCAB = 2, 16, 64
BASE = dict(
    vocab_size=VOCAB,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=32,
    bos_token_id=1,
    eos_token_id=2,
)
LLAMA3 = dict(
    rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16
)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=8)
DEEPSEEK_YARN = dict(**YARN, mscale=0.7, mscale_all_dim=1.0, beta_fast=4.0, beta_slow=0.5, truncate=False)
WINDOWED_QWEN2 = dict(
    num_hidden_layers=3, use_sliding_window=True, sliding_window=4, max_window_layers=1, eos_token_id=[2, 3]
)

# Name: family, and what differs from BASE.
VARIANTS = {
    "tied": ("Llama", dict(tie_word_embeddings=True)),
    "biases": ("Llama", dict(attention_bias=True, mlp_bias=True, num_key_value_heads=4, rms_norm_eps=1e-5)),
    "head_size": ("Llama", dict(head_dim=16, num_key_value_heads=1)),
    "linear": ("Llama", dict(rope_parameters=dict(rope_type="linear", factor=2.5, rope_theta=500.0))),
    "dynamic": ("Llama", dict(rope_parameters=dict(rope_type="dynamic", factor=4.0), max_position_embeddings=8)),
    "llama3": ("Llama", dict(rope_parameters=dict(**LLAMA3, rope_theta=50.0))),
    "yarn": ("Llama", dict(rope_parameters=dict(**YARN, rope_theta=100.0))),
    "deepseek_yarn": ("Llama", dict(rope_parameters=dict(**DEEPSEEK_YARN, rope_theta=100.0))),
    "mistral": ("Mistral", dict(sliding_window=5)),
    "qwen2": ("Qwen2", dict(tie_word_embeddings=True)),
    "qwen2_window": ("Qwen2", WINDOWED_QWEN2),
    "reward": ("Llama", dict(num_labels=1)),
}


def formula(name, shape):
    """Numbers in [-1, 1) by a 32-bit mix of the name's FNV-1a hash and the index (lowbias32 of Chris Wellons)."""
    seed = 0x811C9DC5
    for byte in name.encode():
        seed = (seed ^ byte) * 0x01000193 & 0xFFFFFFFF
    x = (torch.arange(torch.Size(shape).numel()) + seed) & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    x = x ^ (x >> 16)
    return (x.double() / 2**31 - 1).float().reshape(shape)


def weight(name, shape):
    if "embed" in name:
        return formula(name, shape) * 0.5
    if len(shape) == 2:
        return formula(name, shape) * 3 / shape[1] ** 0.5
    return formula(name, shape) * 0.3 + (0 if name.endswith("bias") else 1)


def tiny(variant):
    family, changes = VARIANTS[variant]
    head = "ForSequenceClassification" if variant == "reward" else "ForCausalLM"
    config = getattr(transformers, f"{family}Config")(**{**BASE, **changes})
    model = getattr(transformers, f"{family}{head}")._from_config(
        config, attn_implementation="eager", dtype=torch.float32
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weight(name, parameter.shape))
    return model.eval()


def uniform(seed):
    """examples/finetune/random.ts"""
    state = seed & 0xFFFFFFFF
    while True:
        state = (state + 0x6D2B79F5) & 0xFFFFFFFF
        mixed = (state ^ (state >> 15)) * (state | 1) & 0xFFFFFFFF
        mixed ^= (mixed + (mixed ^ (mixed >> 7)) * (mixed | 61)) & 0xFFFFFFFF
        yield (mixed ^ (mixed >> 14)) / 2**32


def outputs(model, ids):
    """Logits `[tokens, vocabulary]`, or scores `[tokens, 1]` of a reward model at every token."""
    if hasattr(model, "score"):
        return model.score(model.model(input_ids=ids).last_hidden_state).flatten(0, 1)
    return model(input_ids=ids).logits.flatten(0, 1)


def loss_of(model, values, ids):
    if hasattr(model, "score"):
        return values.square().mean()
    values = values.unflatten(0, ids.shape)[:, :-1].flatten(0, 1)
    return torch.nn.functional.cross_entropy(values, ids[:, 1:].flatten())


def gradients(model, ids):
    """Of the mean loss: for each weight the norm and seven numbers at equal distances."""
    model.zero_grad()
    loss = loss_of(model, outputs(model, ids), ids)
    loss.backward()
    found = {}
    for name, parameter in model.named_parameters():
        flat = parameter.grad.flatten().detach()
        found[name] = {"norm": rounded(flat.norm()), "at": [rounded(flat[i * len(flat) // 7]) for i in range(7)]}
    return {"loss": rounded(loss.detach()), "gradients": found}


def rounded(x):
    return float(f"{float(x):.7g}")


@torch.no_grad()
def sample(model, prompt, count, seed, temperature, top_k, top_p):
    """Tokens drawn with transformers' warpers and by inverting the distribution function, and the positive numbers of
    the distributions."""
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    ids, cache, tokens, kept = torch.tensor([prompt]), None, [], []
    for _, random in zip(range(count), uniform(seed)):
        step = model(input_ids=ids, past_key_values=cache, use_cache=True)
        cache = step.past_key_values
        p = warpers(ids, step.logits[:, -1].float()).double().softmax(-1)[0]
        token = int((p.cumsum(0) > random).nonzero()[0, 0])
        positive = p.nonzero().flatten()
        kept.append([positive.tolist(), [rounded(x) for x in p[positive]]])
        tokens.append(token)
        ids = torch.tensor([[token]])
    return {"tokens": tokens, "kept": kept}


def greedy(model, prompt, count):
    # No token ends the text: without an id here, generate() would use the model's own.
    model.generation_config = transformers.GenerationConfig(max_new_tokens=count, do_sample=False, pad_token_id=0)
    return model.generate(torch.tensor([prompt]))[0, len(prompt) :].tolist()


def old_form(config):
    """The config.json that transformers 4 wrote."""
    old = {key: value for key, value in config.items() if key != "rope_parameters"}
    rope = dict(config["rope_parameters"])
    old["rope_theta"] = rope.pop("rope_theta")
    old["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    return old


def fixture(variant):
    model = tiny(variant)
    config = json.loads(model.config.to_json_string())
    config["architectures"] = [type(model).__name__]
    ids = ((formula("ids", (BATCH, LENGTH)) + 1) * VOCAB / 2).long()
    with torch.no_grad():
        logits = [float(f"{x:.6g}") for x in outputs(model, ids).flatten().tolist()]
    found = {
        "config": config,
        "oldConfig": old_form(config),
        "ids": ids.tolist(),
        "logits": logits,
        "shapes": {name: list(p.shape) for name, p in model.named_parameters()},
        **gradients(model, ids),
    }
    if variant == "reward":
        return found
    prompt, count = ids[0, :5].tolist(), 20
    nucleus = {"seed": 7, "temperature": 1.5, "top_p": 0.8}
    drawn = sample(model, prompt, count, top_k=0, **nucleus)
    cut = sample(model, prompt, count, top_k=9, **nucleus)
    return {
        **found,
        "prompt": prompt,
        "greedy": greedy(model, prompt, count),
        "nucleus": drawn["tokens"],
        "topK": cut["tokens"],
    }


def write_folder(folder, family, changes, dtype, shard):
    """A model folder like a downloaded one: random weights in 16 bits, in several files."""
    from tokenizers import Tokenizer, models

    torch.manual_seed(1)
    config = getattr(transformers, f"{family}Config")(**{**BASE, **changes, "initializer_range": 0.2})
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    model.save_pretrained(folder, max_shard_size=shard)
    vocabulary = {f"t{i}": i for i in range(VOCAB)}
    Tokenizer(models.WordLevel(vocabulary, unk_token="t0")).save(f"{folder}/tokenizer.json")


def load(request):
    arguments = dict(dtype=torch.float32, attn_implementation="eager")
    if "gguf" in request:
        path = Path(request["gguf"])
        return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, **arguments).eval()
    return AutoModelForCausalLM.from_pretrained(request["folder"], **arguments).eval()


def answer(request):
    if request["command"] == "fixtures":
        return {variant: fixture(variant) for variant in VARIANTS}
    if request["command"] == "write":
        return write_folder(**request["arguments"])
    model = load(request)
    ids = torch.tensor(request["ids"])
    with torch.no_grad():
        outputs(model, ids).numpy().astype("<f4").tofile(request["logitsFile"])
    prompt, count = request["prompt"], request["count"]
    return {
        **gradients(model, ids),
        "greedy": greedy(model, prompt, count),
        "sample": sample(model, prompt, count, **request["sampling"]),
    }


if sys.argv[1:] == ["--write"]:
    FIXTURES.mkdir(exist_ok=True)
    for variant in VARIANTS:
        text = json.dumps(fixture(variant), separators=(",", ":"))
        (FIXTURES / f"llama_{variant}.json").write_text(text + "\n")
else:
    json.dump(answer(json.load(sys.stdin)), sys.stdout)
