"""Runs Hugging Face's peft and transformers on a trained model: `generate BASE ADAPTER PROMPT` prints the greedy
answer, `score BASE ADAPTER PROMPT ANSWER...` one reward per line. An empty ADAPTER means the base alone."""

import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer


def load(auto, base, adapter, **options):
    model = auto.from_pretrained(base, **options)
    return (PeftModel.from_pretrained(model, adapter) if adapter else model).eval()


def generate(base, adapter, prompt):
    tokenizer = AutoTokenizer.from_pretrained(base)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    model = load(AutoModelForCausalLM, base, adapter)
    written = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)
    print(tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True))


def score(base, adapter, prompt, *answers):
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = load(AutoModelForSequenceClassification, base, adapter, num_labels=1)
    model.config.pad_token_id = None
    for answer in answers:
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        # The reward belongs to the token that ends the answer, so the text that the template adds after it is cut off.
        text = text[: text.rindex(tokenizer.eos_token) + len(tokenizer.eos_token)]
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.no_grad():
            print(model(input_ids=ids).logits.item())


{"generate": generate, "score": score}[sys.argv[1]](*sys.argv[2:])
