/** @file The learning rate over a run. */

/**
 * The learning rate of a step: a linear warm-up to `peak`, then half a cosine down to `floor · peak`. After the warm-up
 * it equals transformers' `get_cosine_with_min_lr_schedule_with_warmup`, whose warm-up wastes its first step at rate 0.
 *
 * @param step From 0 to `steps - 1`.
 * @param warmup Steps until the peak. 0 starts at the peak.
 * @param floor Fraction of the peak.
 */
export function learningRate(step: number, steps: number, peak: number, warmup: number, floor = 0.1): number {
  if (step < warmup) {
    return (peak * (step + 1)) / warmup;
  }
  const progress = Math.min(1, (step - warmup) / Math.max(1, steps - warmup));
  return peak * (floor + (1 - floor) * 0.5 * (1 + Math.cos(Math.PI * progress)));
}
