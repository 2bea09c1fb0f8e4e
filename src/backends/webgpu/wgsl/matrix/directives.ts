/** @file The directives at the start of WGSL that uses subgroup matrices. */
export const MATRIX_DIRECTIVES = [
  'enable f16',
  'enable subgroups',
  'enable chromium_experimental_subgroup_matrix',
  'requires subgroup_id',
] as const;
