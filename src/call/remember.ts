/** @file Values that are made once. */

/** The value of a key. It is made where the map has none. */
export function remember<K, V>(
  map: {get(key: K): V | undefined; set(key: K, value: V): unknown},
  key: K,
  make: () => V,
): V {
  let value = map.get(key);
  if (value === undefined) map.set(key, (value = make()));
  return value;
}
