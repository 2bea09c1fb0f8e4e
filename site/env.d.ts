/** @file Vite's own types: texts by `?raw`, and `import.meta.glob`. */
/// <reference types="vite/client" />
