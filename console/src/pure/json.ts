/** JSON as the API sends it, and small questions to it. Pure. */

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json }
export type JsonObject = { [key: string]: Json }

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** The value at a path of keys, or undefined. */
export function at(value: Json | undefined, ...path: string[]): Json | undefined {
  let here: Json | undefined = value
  for (const key of path) {
    if (!isObject(here)) return undefined
    here = Object.hasOwn(here, key) ? here[key] : undefined
  }
  return here
}

export function text(value: Json | undefined, fallback = ''): string {
  return typeof value === 'string' ? value : fallback
}

export function number(value: Json | undefined): number | undefined {
  return typeof value === 'number' && Number.isFinite(value) ? value : undefined
}

/** Parsed text, or undefined: for bodies that need not be JSON. */
export function parsed(source: string): Json | undefined {
  try {
    return JSON.parse(source) as Json
  } catch {
    return undefined
  }
}

export function equal(left: Json | undefined, right: Json | undefined): boolean {
  if (left === right) return true
  if (Array.isArray(left) && Array.isArray(right)) {
    return left.length === right.length && left.every((item, index) => equal(item, right[index]))
  }
  if (isObject(left) && isObject(right)) {
    const keys = Object.keys(left)
    return keys.length === Object.keys(right).length && keys.every((key) => Object.hasOwn(right, key) && equal(left[key], right[key]))
  }
  return false
}

/** A copy without `$metadata` and `$version`, which the hub keeps beside the values. */
export function plain(section: Json | undefined): JsonObject {
  if (!isObject(section)) return {}
  return Object.fromEntries(Object.entries(section).filter(([key]) => key !== '$metadata' && key !== '$version'))
}

/** How it looks in an editor. */
export function pretty(value: Json | undefined): string {
  return JSON.stringify(value ?? null, null, 2)
}
