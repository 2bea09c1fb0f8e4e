/** @file Tells masks from other values, also those of another copy of this library. */
import {MASK_MARK} from './fields.js';
import type {FlashMask} from './flash_mask.js';

/** Whether this is a FlashMask, be it of another copy of this library. Such a one may be of another version: check its fields. */
export function isFlashMask(value: unknown): value is FlashMask {
  return typeof value === 'object' && value !== null && MASK_MARK in value;
}
