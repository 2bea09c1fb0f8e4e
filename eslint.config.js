/**
 * @file Lint rules: typescript-eslint's strict set with types, less what numeric code and tfjs's own typings make
 * noisy.
 */
import {defineConfig, globalIgnores} from 'eslint/config';
import tseslint from 'typescript-eslint';

export default defineConfig(
  globalIgnores(['**/dist/', 'coverage/', 'docs/', 'node_modules/', '**/*.tmp.*']),
  {linterOptions: {reportUnusedDisableDirectives: 'error'}},
  {
    files: ['**/*.ts'],
    extends: [tseslint.configs.strictTypeChecked],
    languageOptions: {parserOptions: {project: './tsconfig.json', tsconfigRootDir: import.meta.dirname}},
    rules: {
      eqeqeq: ['error', 'always', {null: 'ignore'}],
      'no-console': 'off',
      'max-lines-per-function': ['error', {max: 60, skipBlankLines: true, skipComments: true}],
      'max-depth': ['error', 5],
      '@typescript-eslint/consistent-type-imports': 'error',
      // Numbers in messages and shader text are meant.
      '@typescript-eslint/restrict-template-expressions': [
        'error',
        {allowNumber: true, allowBoolean: true, allowArray: true},
      ],
      // Indexing typed arrays and destructured shapes: their bounds are known, and the compiler option is off.
      '@typescript-eslint/no-non-null-assertion': 'off',
      // `tf.reshape(x, shape) as Tensor4D` is how tfjs code narrows ranks; `tf.backend() as WebGPUBackend` how it
      // reaches backends.
      '@typescript-eslint/no-unnecessary-type-assertion': 'off',
      '@typescript-eslint/no-unsafe-class-instance-assignment': 'off',
      // tfjs types much as never null that is, for other backends or before registration.
      '@typescript-eslint/no-unnecessary-condition': 'off',
      '@typescript-eslint/no-confusing-void-expression': [
        'error',
        {ignoreArrowShorthand: true, ignoreVoidOperator: true},
      ],
    },
  },
  {
    files: ['test/**/*.ts', 'examples/**/*.test.ts'],
    rules: {
      // describe and it hold whole suites, and chai's assertions are expressions.
      'max-lines-per-function': 'off',
      '@typescript-eslint/no-unused-expressions': 'off',
      '@typescript-eslint/require-await': 'off',
    },
  },
  {
    files: ['**/*.{js,mjs,cjs}'],
    rules: {'no-unused-vars': ['error', {varsIgnorePattern: '^_'}]},
  },
  {
    // Comments keep to 120 columns, as in .editorconfig.
    files: ['**/*.{ts,js,mjs,cjs}'],
    rules: {
      // Prettier wraps code; a template string may be a shader.
      'max-len': [
        'error',
        {code: 1000, comments: 120, ignoreUrls: true, ignoreStrings: true, ignoreTemplateLiterals: true},
      ],
    },
  },
);
