/** @file Recognizes masks, also those of another copy of this library. */
import {MASK_MARK} from './fields.js';
import type {FlashMask} from './flash_mask.js';

/**
 * Whether this is a FlashMask of this or another copy of the library. Another copy may have another version, so check
 * the fields.
 */
export function isFlashMask(value: unknown): value is FlashMask {
  return typeof value === 'object' && value !== null && MASK_MARK in value;
}
