"""An independent judge of examples/finetune/data: Hugging Face's tokenizers, chat templates and assistant masks, and a
second implementation of PaddleNLP's layout of preference pairs.

Reads JSON from standard input: `tokenizer` (a tokenizer.json), `config` (its tokenizer_config.json), `maskTemplate`
(the chat template with `{% generation %}` around each assistant message, or null), `texts`, `conversations` (lists of
messages) and `comparisons` ({prompt, answers}). Writes ids and decoded texts, rendered conversations with ids and
masks, and the rows of comparisons.
"""

import json
import sys
import tempfile

from transformers import PreTrainedTokenizerFast, __version__


def load(request):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(request["tokenizer"], file)
        file.flush()
        names = ("bos_token", "eos_token", "unk_token", "pad_token", "chat_template")
        config = {name: request["config"][name] for name in names if request["config"].get(name) is not None}
        return PreTrainedTokenizerFast(tokenizer_file=file.name, **config)


def judge_text(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False)
    return {"ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=True)}


def judge_conversation(tokenizer, mask_template, messages):
    judgement = {
        "text": tokenizer.apply_chat_template(messages, tokenize=False),
        "prompt": tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True),
    }
    if mask_template is not None:
        masked = tokenizer.apply_chat_template(
            messages,
            chat_template=mask_template,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        judgement.update(ids=masked["input_ids"], mask=masked["assistant_masks"])
    return judgement


def judge_comparison(tokenizer, prompt, answers):
    text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    question = tokenizer.encode(text, add_special_tokens=False)
    spoken = [tokenizer.encode(answer, add_special_tokens=False) + [tokenizer.eos_token_id] for answer in answers]
    shared = len(question) - 1
    dpo = {"tokens": question[:-1], "positions": list(range(shared)), "labels": [-100] * shared}
    rm = {"tokens": list(question), "positions": list(range(shared + 1))}
    total = shared + sum(map(len, spoken))
    dpo["starts"] = [total] * shared
    for ids in spoken:
        dpo["tokens"] += question[-1:] + ids[:-1]
        dpo["positions"] += range(shared, shared + len(ids))
        dpo["labels"] += ids
        dpo["starts"] += [len(dpo["tokens"])] * len(ids)
        rm["tokens"] += ids
        rm["positions"] += range(shared + 1, shared + 1 + len(ids))
    return {"dpo": dpo, "rm": rm}


if __name__ == "__main__":
    request = json.load(sys.stdin)
    tokenizer = load(request)
    print(f"transformers {__version__}", file=sys.stderr)
    json.dump(
        {
            "texts": [judge_text(tokenizer, text) for text in request["texts"]],
            "conversations": [
                judge_conversation(tokenizer, request["maskTemplate"], messages)
                for messages in request["conversations"]
            ],
            "comparisons": [judge_comparison(tokenizer, **each) for each in request["comparisons"]],
        },
        sys.stdout,
    )
