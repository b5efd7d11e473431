/** Where things are in a JSON text: the place of each path, and of the first mistake. Pure. */
import type { Json, JsonObject } from './json'

export type Place = { from: number; to: number }
export type Read = { value: Json; places: Map<string, Place> }
export class Mistake extends Error {
  constructor(
    readonly at: number,
    message: string,
  ) {
    super(message)
  }
}

/** Deeper texts are refused; the hub takes far less. */
const DEPTH_MAX = 64

/** The name of a path in `places`. */
export function pathKey(path: readonly string[]): string {
  return JSON.stringify(path)
}

/** Reads JSON text and remembers where each key and list item stands. Throws `Mistake`. */
export function readPlaces(text: string): Read {
  const reader = new Reader(text)
  const value = reader.value([], 0)
  reader.blank()
  if (reader.at < text.length) throw new Mistake(reader.at, 'nothing may follow the last brace')
  return { value, places: reader.places }
}

/** Line and column from 1. */
export function lineOf(text: string, at: number): { line: number; column: number } {
  const before = text.slice(0, at)
  const start = before.lastIndexOf('\n') + 1
  return { line: before.split('\n').length, column: at - start + 1 }
}

class Reader {
  at = 0
  readonly places = new Map<string, Place>()
  constructor(private readonly text: string) {}

  blank(): void {
    while (' \t\r\n'.includes(this.text[this.at] ?? 'x')) this.at += 1
  }

  private fail(message: string): never {
    throw new Mistake(Math.min(this.at, Math.max(0, this.text.length - 1)), message)
  }

  value(path: string[], depth: number): Json {
    if (depth > DEPTH_MAX) this.fail(`is nested deeper than ${DEPTH_MAX} levels`)
    this.blank()
    const sign = this.text[this.at]
    if (sign === '{') return this.object(path, depth)
    if (sign === '[') return this.list(path, depth)
    if (sign === '"') return this.string()
    const word = /[-+.\w]+/uy
    word.lastIndex = this.at
    const found = word.exec(this.text)?.[0]
    if (found === undefined) this.fail(sign === undefined ? 'the text ends too early' : `a value is missing before ${JSON.stringify(sign)}`)
    try {
      const value = JSON.parse(found) as Json
      this.at += found.length
      return value
    } catch {
      return this.fail(`${found} is no value; text needs double quotes`)
    }
  }

  private object(path: string[], depth: number): Json {
    const result: JsonObject = {}
    const seen = new Set<string>()
    this.members('}', 'a property', () => {
      const from = this.at
      if (this.text[this.at] !== '"') this.fail('a key in double quotes is missing')
      const key = this.string()
      if (seen.has(key)) {
        this.at = from
        this.fail(`the key ${JSON.stringify(key)} is there twice`)
      }
      seen.add(key)
      this.places.set(pathKey([...path, key]), { from, to: this.at })
      this.blank()
      if (this.text[this.at] !== ':') this.fail('a colon is missing after the key')
      this.at += 1
      Object.defineProperty(result, key, { value: this.value([...path, key], depth + 1), enumerable: true, configurable: true, writable: true })
    })
    return result
  }

  private list(path: string[], depth: number): Json {
    const result: Json[] = []
    this.members(']', 'an item', () => {
      const from = this.at
      const name = [...path, String(result.length)]
      result.push(this.value(name, depth + 1))
      this.places.set(pathKey(name), { from, to: this.at })
    })
    return result
  }

  private members(end: string, what: string, member: () => void): void {
    this.at += 1
    this.blank()
    if (this.text[this.at] === end) {
      this.at += 1
      return
    }
    for (;;) {
      this.blank()
      if (this.text[this.at] === end) this.fail(`${what} is missing after the comma`)
      member()
      this.blank()
      const sign = this.text[this.at]
      if (sign !== ',' && sign !== end) this.fail(sign === undefined ? `the text ends before ${end}` : `a comma or ${end} is missing`)
      this.at += 1
      if (sign === end) return
    }
  }

  private string(): string {
    const pattern = /"(?:[^"\\\u0000-\u001f]|\\.)*"/uy
    pattern.lastIndex = this.at
    const found = pattern.exec(this.text)?.[0]
    if (found === undefined) this.fail('the closing quote of this text is missing')
    try {
      const value = JSON.parse(found) as string
      this.at += found.length
      return value
    } catch {
      return this.fail('this text has an unknown escape')
    }
  }
}
