/** The look: indigo and off-white of denim, with the red thread of its selvedge. */
import { createTheme, type CSSVariablesResolver, type MantineColorsTuple } from '@mantine/core'

const denim: MantineColorsTuple = ['#eef3fb', '#dce6f4', '#b8cae7', '#92aedb', '#7396d0', '#5a83c8', '#4374c4', '#2f5a9e', '#274b85', '#1f3a6b']
const thread: MantineColorsTuple = ['#fdf0f1', '#f9dcdf', '#f0b4ba', '#e88a94', '#e16874', '#dc505f', '#d33a4c', '#b32a3b', '#9c2333', '#84192a']
/** Night: ink with a trace of indigo. */
const dark: MantineColorsTuple = ['#dbe1ee', '#bcc5d8', '#9ca8c0', '#6d7a95', '#3d4964', '#2d384f', '#222c40', '#182033', '#121927', '#0c111c']

export const theme = createTheme({
  primaryColor: 'denim',
  primaryShade: { light: 7, dark: 6 },
  colors: { denim, thread, dark },
  fontFamily: 'Inter, "Helvetica Neue", Helvetica, Arial, "Liberation Sans", sans-serif',
  fontFamilyMonospace: 'ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", "DejaVu Sans Mono", monospace',
  headings: { fontWeight: '650', sizes: { h1: { fontSize: '1.5rem' }, h2: { fontSize: '1.15rem' }, h3: { fontSize: '1rem' } } },
  defaultRadius: 'sm',
  cursorType: 'pointer',
  respectReducedMotion: true,
  components: {
    // A link is known by more than its colour.
    Anchor: { defaultProps: { underline: 'always' } },
    Tooltip: { defaultProps: { openDelay: 300, withArrow: true } },
    Card: { defaultProps: { withBorder: true, padding: 'md', radius: 'md' } },
    Table: { defaultProps: { verticalSpacing: 7, horizontalSpacing: 'sm' } },
  },
})

/** Mantine's grey text is too pale for AA on white and on the cards of the night. */
export const variables: CSSVariablesResolver = () => ({
  variables: {},
  light: {
    '--mantine-color-dimmed': '#56607a',
    '--mantine-color-placeholder': '#626c85',
    '--mantine-color-body': '#fbfaf7',
    '--mantine-color-text': '#1b2233',
    '--sv-card': '#ffffff',
    '--sv-line': '#e2e0d8',
    '--sv-ok': '#1d7a46',
    '--sv-warn': '#8f5b00',
    '--sv-bad': '#b32a3b',
    '--sv-quiet': '#56607a',
    '--sv-grid': '#ebe9e2',
    '--sv-row': '#f3f1ea',
    '--sv-mark': '#fbe6e8',
    '--sv-code': '#f4f2ec',
  },
  dark: {
    '--mantine-color-dimmed': '#a3aec6',
    '--mantine-color-placeholder': '#8e9ab3',
    '--mantine-color-body': '#121927',
    '--sv-card': '#182033',
    '--sv-line': '#2d384f',
    '--sv-ok': '#5fd394',
    '--sv-warn': '#f2b84b',
    '--sv-bad': '#ff8a97',
    '--sv-quiet': '#a3aec6',
    '--sv-grid': '#26304a',
    '--sv-row': '#1d2740',
    '--sv-mark': '#43212f',
    '--sv-code': '#0f1522',
  },
})
