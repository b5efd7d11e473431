/** The last so many items, each with a number that never changes. Pure. */
export class Ring<T> {
  private readonly held: T[] = []
  private start = 0
  /** Items ever put in. */
  total = 0

  constructor(readonly capacity: number) {
    if (capacity < 1) throw new RangeError('a ring holds at least one item')
  }

  push(items: readonly T[]): void {
    for (const item of items) {
      if (this.held.length < this.capacity) this.held.push(item)
      else {
        this.held[this.start] = item
        this.start = (this.start + 1) % this.capacity
      }
      this.total += 1
    }
  }

  get length(): number {
    return this.held.length
  }

  /** The number of the oldest item that is still there. */
  get first(): number {
    return this.total - this.held.length
  }

  /** By position, 0 is the oldest. */
  at(index: number): T | undefined {
    if (index < 0 || index >= this.held.length) return undefined
    return this.held[(this.start + index) % this.held.length]
  }

  /** Newest first, as far as `wanted` says. */
  *newest(): Generator<T> {
    for (let index = this.held.length - 1; index >= 0; index -= 1) {
      const item = this.at(index)
      if (item !== undefined) yield item
    }
  }

  clear(): void {
    this.held.length = 0
    this.start = 0
    this.total = 0
  }
}
