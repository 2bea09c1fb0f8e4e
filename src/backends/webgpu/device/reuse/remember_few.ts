/** @file Values that are made once, as long as they are few. */
import {remember} from '../../../../call/remember.js';

/** The value of a key. Where the map has `most` values and not this one, it forgets all: a step makes its own again. */
export function rememberFew<K, V>(map: Map<K, V>, most: number, key: K, make: () => V): V {
  return remember(map, key, () => {
    if (map.size >= most) map.clear();
    return make();
  });
}
