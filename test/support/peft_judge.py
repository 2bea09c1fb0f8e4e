"""An independent judge of the files that examples/finetune writes: Hugging Face's peft and transformers, on tiny
models.

`peft_judge.py make FOLDER` writes, for a language model (lm) and a reward model (rm), a base model and an adapter by
peft, with random numbers everywhere: FOLDER/{lm,rm}_base and FOLDER/{lm,rm}_adapter. `peft_judge.py adapter BASE
ADAPTER` loads an adapter, `peft_judge.py model FOLDER` a whole model. Both print JSON: what was missing or unexpected,
and every tensor as a flat list, for an adapter by the names of its file.
"""

import json
import sys

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig

TARGETS = ["q_proj", "v_proj", "down_proj"]


def auto_class(folder):
    [architecture] = AutoConfig.from_pretrained(folder).architectures
    is_language_model = architecture.endswith("ForCausalLM")
    return AutoModelForCausalLM if is_language_model else AutoModelForSequenceClassification


def make(folder):
    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 40, "head_dim": 6}
    config = LlamaConfig(num_attention_heads=4, num_key_value_heads=2, pad_token_id=0, **sizes)
    for name, auto, task in (
        ("lm", AutoModelForCausalLM, "CAUSAL_LM"),
        ("rm", AutoModelForSequenceClassification, "SEQ_CLS"),
    ):
        config.num_labels = 1
        auto.from_config(config).save_pretrained(f"{folder}/{name}_base")
        base = auto.from_pretrained(f"{folder}/{name}_base")
        lora = LoraConfig(task_type=task, r=3, lora_alpha=6, lora_dropout=0.1, target_modules=TARGETS, use_rslora=True)
        model = get_peft_model(base, lora)
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter)
        model.save_pretrained(f"{folder}/{name}_adapter")


def load_adapter(base, adapter):
    model = PeftModel.from_pretrained(auto_class(base).from_pretrained(base), adapter)
    # from_pretrained only warns of missing tensors; load_adapter returns them.
    result = model.load_adapter(adapter, "again")
    lora = PeftConfig.from_pretrained(adapter)
    return {
        "missing": result.missing_keys,
        "unexpected": result.unexpected_keys,
        "scaling": model.base_model.model.model.layers[0].self_attn.q_proj.scaling["default"],
        "task": lora.task_type,
        "base": lora.base_model_name_or_path,
        "tensors": flat(get_peft_model_state_dict(model)),
    }


def load_model(folder):
    model, found = auto_class(folder).from_pretrained(folder, output_loading_info=True)
    return {
        "missing": sorted(found["missing_keys"]),
        "unexpected": sorted(found["unexpected_keys"]),
        "dtype": str(model.dtype),
        "tensors": flat(dict(model.named_parameters())),
    }


def flat(tensors):
    return {name: tensor.detach().flatten().tolist() for name, tensor in tensors.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    command, *arguments = sys.argv[1:]
    answer = {"make": make, "adapter": load_adapter, "model": load_model}[command](*arguments)
    if answer is not None:
        json.dump(answer, sys.stdout)
