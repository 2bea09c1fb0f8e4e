/** @file What the WGSL of subgroup matrices must say first. */
export const MATRIX_DIRECTIVES = [
  'enable f16',
  'enable subgroups',
  'enable chromium_experimental_subgroup_matrix',
  'requires subgroup_id',
] as const;
