"""Training steps of transformers' Llama in PyTorch, as Python users run them: the peer in the suite `finetune`.

    python3 bench/finetune/torch_step.py OPTIONS

Eager, SDPA, fused AdamW after clipping, float32 with TF32 products or all of bfloat16, LoRA by peft. One causal row of
random tokens: the mask of packed documents, which is left out, would cost PyTorch time. OPTIONS are JSON, and so is the
line that is printed. Where memory runs out, PyTorch's error says so.
"""

import json
import resource
import statistics
import sys
import time

import torch
import transformers

ON_GPU = torch.cuda.is_available()


def model_of(options, device):
    config = transformers.LlamaConfig.from_dict({**options["config"], "use_cache": False})
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    model = model.to(device, getattr(torch, options["dtype"]))
    if not options["keepActivations"]:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if options["task"] == "lora":
        import peft

        model.enable_input_require_grads()
        lora = options["lora"]
        settings = {"r": lora["rank"], "lora_alpha": lora["alpha"], "target_modules": lora["targetModules"]}
        model = peft.get_peft_model(model, peft.LoraConfig(**settings, task_type="CAUSAL_LM"))
    return model.train()


def stepper(options, device):
    """A function that does a step and waits for it."""
    torch.manual_seed(5)
    model = model_of(options, device)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    # The optimizer does all its work, but leaves the weights as they are, as in step.ts.
    optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=0.0, fused=True)
    ids = torch.randint(options["config"]["vocab_size"], (1, options["N"]), device=device)

    def step():
        start = time.perf_counter()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        if ON_GPU:
            torch.cuda.synchronize()
        return 1000 * (time.perf_counter() - start)

    return step


def measure(options):
    torch.set_float32_matmul_precision("high")
    step = stepper(options, "cuda" if ON_GPU else "cpu")
    first = step()
    end = time.perf_counter() + options["seconds"]
    times = [step()]
    while len(times) < options["steps"] and time.perf_counter() < end:
        times.append(step())
    median = statistics.median(times)
    return {
        "firstMs": first,
        "steps": len(times),
        "medianMs": median,
        "bestMs": min(times),
        "tokensPerSecond": 1000 * options["N"] / median,
        "peakBytes": torch.cuda.max_memory_allocated()
        if ON_GPU
        else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "memoryBy": "PyTorch's allocator" if ON_GPU else "resident",
        "versions": f"torch {torch.__version__}, transformers {transformers.__version__}",
    }


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
