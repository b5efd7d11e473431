/** Editors for JSON: plain, with faults marked, or as a comparison. Fetched only where needed. */
import { defaultKeymap, history, historyKeymap, indentWithTab } from '@codemirror/commands'
import { json } from '@codemirror/lang-json'
import { bracketMatching, foldGutter, foldKeymap, HighlightStyle, indentOnInput, syntaxHighlighting } from '@codemirror/language'
import { lintGutter, setDiagnostics, type Diagnostic } from '@codemirror/lint'
import { unifiedMergeView } from '@codemirror/merge'
import { searchKeymap } from '@codemirror/search'
import { Compartment, EditorState, type Extension } from '@codemirror/state'
import { drawSelection, EditorView, highlightActiveLine, highlightSpecialChars, keymap, lineNumbers } from '@codemirror/view'
import { tags } from '@lezer/highlight'
import { useComputedColorScheme } from '@mantine/core'
import { useEffect, useRef, type ReactNode } from 'react'

export type Marked = { from: number; to: number; message: string; severity: 'error' | 'warning' }

const COLOURS = {
  light: { key: '#1f3a6b', text: '#1d6b3c', number: '#9c2333', word: '#7a4b00', back: '#ffffff', ink: '#1b2233', gutter: '#626c85', line: '#f3f1ea', pick: '#d3e0f5' },
  dark: { key: '#92aedb', text: '#7fd6a5', number: '#ff9aa5', word: '#f2c46d', back: '#182033', ink: '#dbe1ee', gutter: '#8e9ab3', line: '#1d2740', pick: '#34466e' },
}

function look(dark: boolean): Extension {
  const colour = dark ? COLOURS.dark : COLOURS.light
  const style = HighlightStyle.define([
    { tag: tags.propertyName, color: colour.key },
    { tag: tags.string, color: colour.text },
    { tag: tags.number, color: colour.number },
    { tag: [tags.bool, tags.null], color: colour.word },
  ])
  const theme = EditorView.theme(
    {
      '&': { backgroundColor: colour.back, color: colour.ink },
      '.cm-content': { caretColor: colour.ink },
      '.cm-cursor': { borderLeftColor: colour.ink },
      '.cm-gutters': { backgroundColor: colour.back, color: colour.gutter, border: 'none' },
      '.cm-activeLine': { backgroundColor: colour.line },
      '&.cm-focused .cm-selectionBackground, .cm-selectionBackground': { backgroundColor: colour.pick },
      '.cm-deletedChunk': { backgroundColor: dark ? '#43212f' : '#fbe6e8', color: colour.ink },
      '.cm-changedLine': { backgroundColor: dark ? '#1b3a33' : '#e4f4ea' },
      '.cm-tooltip': { backgroundColor: colour.back, color: colour.ink, border: `1px solid ${colour.gutter}` },
    },
    { dark },
  )
  return [theme, syntaxHighlighting(style)]
}

const base: Extension = [
  lineNumbers(),
  foldGutter(),
  highlightSpecialChars(),
  history(),
  drawSelection(),
  indentOnInput(),
  bracketMatching(),
  highlightActiveLine(),
  json(),
  keymap.of([...defaultKeymap, ...searchKeymap, ...historyKeymap, ...foldKeymap]),
]

export type CodeProps = {
  value: string
  label: string
  height?: string
  change?: (value: string) => void
  marks?: Marked[]
  /** Compare with this; the editor shows both and cannot be written in. */
  original?: string
  /** Jumps there when it changes. */
  goTo?: { at: number; count: number } | undefined
}

export default function Code({ value, label, height = '360px', change, marks = [], original, goTo }: CodeProps): ReactNode {
  const box = useRef<HTMLDivElement>(null)
  const view = useRef<EditorView>(null)
  const changed = useRef(change)
  changed.current = change
  const looks = useRef(new Compartment())
  const dark = useComputedColorScheme('light') === 'dark'
  const fixed = change === undefined

  useEffect(() => {
    if (!box.current) return undefined
    const made = new EditorView({
      parent: box.current,
      state: EditorState.create({
        doc: value,
        extensions: [
          base,
          looks.current.of(look(dark)),
          EditorView.contentAttributes.of({ 'aria-label': label, ...(fixed ? { tabindex: '0' } : {}) }),
          EditorState.readOnly.of(fixed),
          EditorView.editable.of(!fixed),
          EditorView.lineWrapping,
          fixed ? [] : [lintGutter(), keymap.of([indentWithTab])],
          original === undefined ? [] : unifiedMergeView({ original, mergeControls: false, gutter: true, collapseUnchanged: { margin: 3, minSize: 6 } }),
          EditorView.updateListener.of((update) => {
            if (update.docChanged) changed.current?.(update.state.doc.toString())
          }),
        ],
      }),
    })
    made.scrollDOM.tabIndex = 0
    made.scrollDOM.setAttribute('role', 'group')
    made.scrollDOM.setAttribute('aria-label', `${label}, scrolling`)
    view.current = made
    return () => {
      view.current = null
      made.destroy()
    }
    // The text is handed over below; a new editor is made only for another kind.
  }, [fixed, original, label])
  useEffect(() => {
    const held = view.current
    if (held && held.state.doc.toString() !== value) held.dispatch({ changes: { from: 0, to: held.state.doc.length, insert: value } })
  }, [value])
  useEffect(() => view.current?.dispatch({ effects: looks.current.reconfigure(look(dark)) }), [dark])
  useEffect(() => {
    const held = view.current
    if (!held) return
    const end = held.state.doc.length
    const shown: Diagnostic[] = marks.map((mark) => {
      const from = Math.min(Math.max(0, mark.from), end)
      return { from, to: Math.min(Math.max(from, mark.to), end), message: mark.message, severity: mark.severity }
    })
    held.dispatch(setDiagnostics(held.state, shown.sort((a, b) => a.from - b.from)))
  }, [marks])
  useEffect(() => {
    const held = view.current
    if (!held || !goTo) return
    const at = Math.min(goTo.at, held.state.doc.length)
    held.dispatch({ selection: { anchor: at }, effects: EditorView.scrollIntoView(at, { y: 'center' }) })
    held.focus()
  }, [goTo])
  return <div ref={box} className="code" style={{ height }} />
}
