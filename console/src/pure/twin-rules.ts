/**
 * The hub's rules for tags and desired properties, so that a fault is shown while typing.
 * The hub has the last word. Source: "Understand and use device twins", quotas of IoT Hub. Pure.
 */
import { isObject, type Json, type JsonObject } from './json'

/** Levels of objects below a section. */
export const OBJECT_LEVELS_MAX = 10
/** The deepest level at which a list may stand. */
export const LIST_LEVELS_MAX = 9
/** Bytes of UTF-8 of one string. */
export const STRING_BYTES_MAX = 4096
/** Bytes of one key. */
export const KEY_BYTES_MAX = 1024
/** Bytes of a whole section. */
export const SECTION_BYTES_MAX = { tags: 8 * 1024, desired: 32 * 1024 }
/** Whole numbers beyond these are refused: −2^52 and 2^52 − 1. */
export const INTEGER_MIN = -4_503_599_627_370_496
export const INTEGER_MAX = 4_503_599_627_370_495
/** From here on JSON is written with an exponent, which the hub reads as a fraction. */
const EXPONENT_MIN = 1e21

export type Fault = { path: string[]; message: string; severity: 'error' | 'warning' }

export function twinFaults(section: 'tags' | 'desired', value: Json, reported: JsonObject = {}): Fault[] {
  if (!isObject(value)) return [fault([], 'must be an object: { … }')]
  const faults: Fault[] = []
  walk(value, [], faults)
  const size = weight(value)
  const most = SECTION_BYTES_MAX[section]
  if (size > most) faults.push(fault([], `has ${size} bytes; the hub takes ${most}`))
  if (section === 'desired') kinds(value, reported, faults)
  return faults
}

function walk(value: Json, path: string[], faults: Fault[], inList = false): void {
  if (path.length > (Array.isArray(value) ? LIST_LEVELS_MAX : OBJECT_LEVELS_MAX) && typeof value === 'object' && value !== null) {
    faults.push(fault(path, `lies deeper than ${OBJECT_LEVELS_MAX} levels`))
  } else if (isObject(value)) {
    for (const [key, inner] of Object.entries(value)) {
      const bad = key === '' ? 'a key cannot be empty' : badKey(key)
      if (bad) faults.push(fault([...path, key], bad))
      walk(inner, [...path, key], faults, inList)
    }
  } else if (Array.isArray(value)) {
    value.forEach((inner, index) => walk(inner, [...path, String(index)], faults, true))
  } else if (value === null) {
    faults.push(fault(path, inList ? 'a value in a list cannot be null' : 'null deletes a property: leave the property out instead'))
  } else if (typeof value === 'string') {
    if (bytes(value) > STRING_BYTES_MAX) faults.push(fault(path, `has ${bytes(value)} bytes; the hub takes ${STRING_BYTES_MAX}`))
    else if (HALF.test(value)) faults.push(fault(path, 'has half of a character: an escape \\ud800 to \\udfff without its partner'))
  } else if (typeof value === 'number') {
    if (!Number.isFinite(value)) faults.push(fault(path, 'is a number beyond what JSON can hold; send it as text'))
    else if (Number.isInteger(value) && (value < INTEGER_MIN || value > INTEGER_MAX) && Math.abs(value) < EXPONENT_MIN) faults.push(fault(path, `is not between ${INTEGER_MIN} and ${INTEGER_MAX}; send it as text`))
  }
}

/** A surrogate without its partner; no UTF-8 can hold it. */
const HALF = /\p{Surrogate}/u

function badKey(key: string): string | undefined {
  if (bytes(key) > KEY_BYTES_MAX) return `a key has at most ${KEY_BYTES_MAX} bytes`
  if (HALF.test(key)) return 'a key cannot contain half of a character'
  const sign = /[.$# \u0000-\u001f\u007f-\u009f]/u.exec(key)?.[0]
  if (sign === undefined) return undefined
  return `a key cannot contain ${sign === ' ' ? 'a blank' : JSON.stringify(sign)}`
}

/**
 * The schema is what the module itself said: a module that answers with the plug-and-play form
 * `{value, ac, av}` has told the type of each writable property.
 */
function kinds(desired: JsonObject, reported: JsonObject, faults: Fault[]): void {
  for (const [key, value] of Object.entries(desired)) {
    const answer = reported[key]
    if (!isObject(answer) || !('ac' in answer) || answer.value === null || answer.value === undefined) continue
    const [wanted, given] = [kind(answer.value), kind(value)]
    if (wanted !== given) {
      faults.push({ path: [key], severity: 'warning', message: `is ${given}; the module uses ${wanted} now` })
    }
  }
}

function kind(value: Json): string {
  if (Array.isArray(value)) return 'a list'
  if (value === null) return 'null'
  return { object: 'an object', string: 'text', number: 'a number', boolean: 'true or false' }[typeof value as string] ?? typeof value
}

function fault(path: string[], message: string): Fault {
  return { path, message, severity: 'error' }
}

/** As the hub counts: keys and texts by their bytes, numbers 8, booleans 4. */
function weight(value: Json): number {
  if (Array.isArray(value)) return value.reduce<number>((sum, item) => sum + weight(item), 0)
  if (isObject(value)) return Object.entries(value).reduce((sum, [key, inner]) => sum + bytes(key) + weight(inner), 0)
  if (typeof value === 'string') return bytes(value)
  return typeof value === 'number' ? 8 : typeof value === 'boolean' ? 4 : 0
}

function bytes(value: string): number {
  return new TextEncoder().encode(value).length
}

export type Acknowledgement = { key: string; code: number; version?: number | undefined; words: string; state: 'obeyed' | 'refused' | 'default' | 'waiting' }

/** What the module says about each desired property: plug-and-play's `ac`, `av`, `ad`. */
export function acknowledgements(desired: JsonObject, desiredVersion: number, reported: JsonObject): Acknowledgement[] {
  const keys = Object.keys(reported).filter((key) => {
    const answer = reported[key]
    return isObject(answer) && typeof answer.ac === 'number'
  })
  return keys.map((key) => {
    const answer = reported[key] as JsonObject
    const code = answer.ac as number
    const version = typeof answer.av === 'number' ? answer.av : undefined
    const late = key in desired && version !== undefined && version < desiredVersion
    // A module need not answer anew for what did not change, so an old version alone is no fault.
    const same = key in desired && JSON.stringify(desired[key]) === JSON.stringify(answer.value)
    const state = code >= 400 ? 'refused' : !(key in desired) || code === 203 ? 'default' : late && !same ? 'waiting' : 'obeyed'
    return { key, code, version, state, words: typeof answer.ad === 'string' ? answer.ad : '' }
  })
}
